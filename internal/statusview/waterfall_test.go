package statusview

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/report"
)

// Each step has a bar within the width, whatever the clocks say.
func TestWaterfall(t *testing.T) {
	var b strings.Builder
	steps := []report.Step{
		{Name: "run task", Begin: 0, End: 1, Source: "here"},
		{Name: "pull", Begin: -3, End: -1, Source: "ECS"},
		{Name: "short", Begin: 3.999, End: 4, Source: "here"},
		{Name: "late\n", Begin: 9, End: 12, Source: "ECS"},
	}
	if err := Waterfall(&b, steps, 4); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 6 || !strings.Contains(lines[5], "4.00s until") {
		t.Fatalf("%q", lines)
	}
	for i, want := range []string{
		strings.Repeat("#", 10) + strings.Repeat(".", 30), "#" + strings.Repeat(".", 39), strings.Repeat(".", 39) + "#", strings.Repeat(".", 39) + "#",
	} {
		if !strings.HasSuffix(lines[i+1], " "+want) {
			t.Errorf("%q does not end with %q", lines[i+1], want)
		}
	}
}
