//go:build linux

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrintTables(t *testing.T) {
	at := func(delay int, more ...any) map[string]any {
		params := map[string]any{"delay_ms": delay}
		for i := 0; i < len(more); i += 2 {
			params[more[i].(string)] = more[i+1]
		}
		return params
	}
	var b strings.Builder
	if err := printTables(&b, []row{
		{plugin, "download", "MB/s", 0.78125, at(0, "intact", true)},
		{plugin, "download_full_rate_after", "s", 0.05, at(0)},
		{"ssm-session-client", "download", "MB/s", 0.75, at(0, "intact", false)},
		{"ssm-session-client", "pg_dump", "MB/s", 0, at(0, "failed", "why")},
		{"bastion-8", "download", "MB/s", 6.25, at(0, "intact", true)},
		{"bastion-8", "download_full_rate_after", "s", 2, at(0)},
		{"bastion-8", "idle_rss", "MB", 33.333, map[string]any{"seconds": 1.23456, "of": 20, "a": "b"}},
		{"bastion-16", "download", "MB/s", 12.5, at(20, "intact", true)},
	}); err != nil {
		t.Fatal(err)
	}
	const want = `| 0 ms each way | session-manager-plugin | ssm-session-client | bastion-8 | bastion-8 / plugin | bastion-16 / plugin |
| --- | ---: | ---: | ---: | ---: | ---: |
| download, MB/s | 0.781 | 0.75, corrupt | 6.25 | 8 | |
| download, full rate after, s | 0.05 | | 2 | | |
| pg_dump, MB/s | | failed | | | |

| 20 ms each way | bastion-16 | bastion-8 / plugin | bastion-16 / plugin |
| --- | ---: | ---: | ---: |
| download, MB/s | 12.5 | | |

| figure | of | value | measured |
| --- | --- | ---: | --- |
| idle, RSS, MB | bastion-8 | 33.3 | a=b, of=20, seconds=1.23 |
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.05: "0.05", 0.0012345: "0.00123", 1: "1", 1.005: "1", 9.996: "10", 12.34: "12.3",
		123.4: "123", 12345: "12345",
		-2.5: "-2.5", 1e-9: "0",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}
