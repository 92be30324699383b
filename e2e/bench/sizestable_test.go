//go:build linux

package main

import (
	"strings"
	"testing"
)

func TestSizeTables(t *testing.T) {
	t.Parallel()
	b := &bench{}
	at := map[string]any{"task_cpu": 1024}
	add := func(peer, metric string, values ...float64) {
		for _, v := range values {
			b.rows = append(b.rows, row{Peer: peer, Metric: metric, Unit: "MB/s", Value: v, Params: at})
		}
	}
	add(plugin, "download", 0.5, 0.6, 0.4)
	add("bastion-1", "download", 1, 1, 1)
	add("bastion-8", "download", 3, 9, 4)
	add("bastion-auto", "download", 4, 1, 4)
	add("bastion-8", "upload", 40)
	add("bastion-auto", "upload", 36, 36, 20)
	add("bastion-8", "download, both", 2)
	add("bastion-8", "upload, both", 20)
	add("bastion-auto", "download, both", 3)
	add("bastion-auto", "upload, both", 8)
	b.rows = append(b.rows, row{Peer: "bastion-1", Metric: "upload", Value: 9, Params: at},
		row{Peer: "bastion-1", Metric: "upload", Params: map[string]any{"task_cpu": 1024, "failed": "reset"}})
	got := sizeTables(medians(b.rows))
	for _, want := range []string{
		"| 1 vCPU | 0.5 | 1 | 4 | 4 | 8 | 1 | 1 |\n", // download
		"| 1 vCPU | | failed | 40 | 36 | | 0.9 | 0.9 |\n",
		"| both, of the task | session-manager-plugin | bastion-1 | bastion-8 | bastion-auto |", "| 1 vCPU | | | 1 | 0.95 | | 0.95 | 0.95 |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the tables lack %q:\n%s", want, got)
		}
	}
}
