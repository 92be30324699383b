package bastions

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/fargate"
)

// A size that is set goes to RunTask as overrides, and none otherwise: the definition's counts. Requests that differ in size
// have different client tokens, because ECS takes a token for one request only.
func TestStartsWithSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tokens []string
		for _, size := range []fargate.Size{{}, {CPU: 512, Memory: 1024}, {CPU: 1024, Memory: 2048}, {CPU: 1024, Memory: 4096}} {
			f := &fakeECS{}
			spec := testSpec()
			spec.Size = size
			b, started, err := New(Config{ECS: f}).Ensure(t.Context(), spec, nil)
			if err != nil || !started {
				t.Fatalf("%v: %v, %v", size, started, err)
			}
			overrides := f.runs[0].Overrides
			if size == (fargate.Size{}) {
				if overrides != nil || b.Size != (fargate.Size{CPU: 512, Memory: 1024}) {
					t.Errorf("no size: %+v, %v", overrides, b.Size)
				}
			} else if overrides == nil || sizeOf(overrides.Cpu) != size.CPU || sizeOf(overrides.Memory) != size.Memory || b.Size != size ||
				len(overrides.ContainerOverrides) > 0 || overrides.TaskRoleArn != nil {
				t.Errorf("%v: %+v, %v", size, overrides, b.Size)
			}
			tokens = append(tokens, aws.ToString(f.runs[0].ClientToken))
		}
		slices.Sort(tokens)
		if len(slices.Compact(tokens)) != 4 {
			t.Errorf("tokens %q", tokens)
		}
	})
}

// A running bastion of another size is used, with a note that says how to change it.
func TestOtherSizeIsUsed(t *testing.T) {
	for _, c := range []struct {
		want fargate.Size
		note string
	}{
		{fargate.Size{}, ""},
		{fargate.Size{CPU: 512, Memory: 1024}, ""},
		{fargate.Size{CPU: 1024, Memory: 2048}, "has 0.5 vCPU, 1 GB, not 1 vCPU, 2 GB as set; bastion down, then bastion up"},
		{fargate.Size{CPU: 512, Memory: 4096}, "not 0.5 vCPU, 4 GB as set"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeECS{}
			f.mine(0, becomesReady)
			spec := testSpec()
			spec.Size = c.want
			var told []string
			_, started, err := New(Config{ECS: f}).Ensure(t.Context(), spec, func(e Event) { told = append(told, e.Detail) })
			if err != nil || started {
				t.Fatalf("%v, %v", started, err)
			}
			all := strings.Join(told, "; ")
			if !strings.Contains(all, c.note) || c.note == "" && strings.Contains(all, "as set") {
				t.Errorf("%v: told %q, want %q", c.want, all, c.note)
			}
		})
	}
}
