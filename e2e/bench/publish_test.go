//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Publishing replaces the tables, as often as one likes, leaves the text alone, and draws the plots.
func TestPublish(t *testing.T) {
	out, docs := t.TempDir(), t.TempDir()
	b := &bench{options: options{out: out}}
	if err := b.publish(docs); err == nil {
		t.Error("nothing is published without an error")
	}
	page := filepath.Join(docs, "performance.md")
	if err := os.WriteFile(page, []byte("before\n"+tablesBegin+"old\n"+tablesEnd+"between\n"+sizesBegin+"old\n"+tablesEnd+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.add(bastion(8), "download", "MB/s", 6.5, map[string]any{"delay_ms": 20, "intact": true})
	if err := b.write("bench.json"); err != nil {
		t.Fatal(err)
	}
	b.rows = nil
	b.add(bastion(8), "download", "MB/s", 6.5, map[string]any{"plot": "loss", "loss_percent": 0.5})
	if err := b.write("scale.json"); err != nil {
		t.Fatal(err)
	}
	b.rows = nil
	for name, rate := range map[string]float64{plugin: 0.5, "bastion-1": 0.6, "bastion-16": 1.9, "bastion-auto": 2} {
		b.add(peer{name: name}, "download", "MB/s", rate, map[string]any{"task_cpu": 512})
	}
	if err := b.write("sizes.json"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.publish(docs); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(text); !strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "after\n") ||
		strings.Contains(got, "old") || strings.Count(got, "| download, MB/s | 6.5 |") != 1 || !strings.Contains(got, "between\n") ||
		!strings.Contains(got, " | 4 | 1 | 0.95 |\n") {
		t.Errorf("the page:\n%s", got)
	}
	if _, err := os.Stat(filepath.Join(docs, "img", "download-loss.svg")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(page, []byte("nothing\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.publish(docs); err == nil {
		t.Error("a page without the lines is taken")
	}
}
