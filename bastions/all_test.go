package bastions

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/server"
)

// shared is a cluster with bastions of three owners and a class, and with tasks that lack one mark each.
func shared(f *fakeECS) {
	of := func(user string, change func(*fakeTask)) {
		f.mine(13*time.Hour, func(t *fakeTask) {
			running(&t.Task)
			t.StartedBy = aws.String(NewOwner("arn:aws:sts::000000000000:assumed-role/Dev/"+user, "AROA:"+user).StartedBy)
			t.Tags = []types.Tag{
				{Key: aws.String(tagOwner), Value: aws.String("AROA:" + user)},
				{Key: aws.String("team"), Value: aws.String("data")},
			}
			if change != nil {
				change(t)
			}
		})
	}
	of("ada", nil)
	of("bob", func(t *fakeTask) { t.CreatedAt = aws.Time(time.Now().Add(-time.Hour)) })
	of("eve", func(t *fakeTask) {
		t.TaskDefinitionArn = aws.String("arn:aws:ecs:eu-central-1:000000000000:task-definition/bastion-read:1")
	})
	// Somebody else's.
	of("no-tag", func(t *fakeTask) { t.Tags = nil })
	of("other-family", func(t *fakeTask) {
		t.TaskDefinitionArn = aws.String("arn:aws:ecs:eu-central-1:000000000000:task-definition/bastions:1")
	})
	of("by-hand", func(t *fakeTask) { t.StartedBy = aws.String("bastion-of-ops") })
	of("service", func(t *fakeTask) { t.Group = aws.String("service:bastion") })
	of("stopping", func(t *fakeTask) { t.LastStatus = aws.String("STOPPING") })
}

func ownersOf(swept []Swept) (owners []string) {
	for _, s := range swept {
		owners = append(owners, strings.TrimPrefix(s.Owner, "AROA:"))
	}
	slices.Sort(owners)
	return owners
}

// Only tasks that this program started, of whichever owner, are old enough to be stopped; a neighbour's never is.
func TestSweep(t *testing.T) {
	life := func(value string) *types.TaskDefinition {
		return &types.TaskDefinition{ContainerDefinitions: []types.ContainerDefinition{{
			Environment: []types.KeyValuePair{{Name: aws.String(envMaxLife), Value: aws.String(value)}},
		}}}
	}
	for _, tt := range []struct {
		name       string
		olderThan  time.Duration
		dry        bool
		definition *types.TaskDefinition
		swept      []string
	}{
		{"the life of bastiond", 0, false, nil, []string{"ada", "eve"}},
		{"a longer life of the definition's", 0, false, life("12h45m"), nil},
		{"a shorter one", 0, false, life("20m"), []string{"ada", "bob", "eve"}},
		{"an age", 30 * time.Minute, false, life("100h"), []string{"ada", "bob", "eve"}},
		{"a dry run", time.Minute, true, nil, []string{"ada", "bob", "eve"}},
		{"young ones", 14 * time.Hour, false, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{definition: tt.definition}
				shared(f)
				spec := testSpec()
				spec.Owner = Owner{}
				swept, kept, err := New(Config{ECS: f}).Sweep(t.Context(), spec, tt.olderThan, tt.dry)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(tt.swept, ownersOf(swept)); d != "" || len(swept)+len(kept) != 3 {
					t.Errorf("%s\n%d kept", d, len(kept))
				}
				want := len(tt.swept)
				if tt.dry {
					want = 0
				}
				if len(f.stops) != want {
					t.Errorf("%d tasks were stopped, want %d", len(f.stops), want)
				}
				for _, s := range swept {
					if s.Tags["team"] != "data" || s.Age < time.Hour || s.Life <= 0 {
						t.Errorf("%+v", s)
					}
				}
			})
		})
	}
}

// A task that cannot be stopped does not keep the others.
func TestSweepGoesOn(t *testing.T) {
	f := &fakeECS{}
	shared(f)
	denied := errors.New("not now")
	first := true
	f.before = func(_ context.Context, call string) error {
		if call == "StopTask" && first {
			first = false
			return denied
		}
		return nil
	}
	swept, _, err := New(Config{ECS: f}).Sweep(t.Context(), testSpec(), time.Minute, false)
	if !errors.Is(err, denied) || fail.KindOf(err) != fail.Start || !strings.Contains(err.Error(), "1 bastion of 3") {
		t.Errorf("%v (%v)", err, fail.KindOf(err))
	}
	if len(swept) != 3 || len(f.stops) != 2 || !errors.Is(swept[0].Err, denied) {
		t.Errorf("%d swept, %d stopped", len(swept), len(f.stops))
	}
}

func TestUnreadableLife(t *testing.T) {
	f := &fakeECS{definition: &types.TaskDefinition{ContainerDefinitions: []types.ContainerDefinition{{
		Environment: []types.KeyValuePair{{Name: aws.String(envMaxLife), Value: aws.String("long")}},
	}}}}
	shared(f)
	swept, kept, err := New(Config{ECS: f}).Sweep(t.Context(), testSpec(), 0, false)
	if fail.KindOf(err) != fail.Usage || !strings.Contains(fail.NextOf(err), "--older-than") || len(f.stops) > 0 ||
		!strings.Contains(err.Error(), "read the life of 3 bastions of 3") || strings.Count(err.Error(), "which is not a duration") != 2 { // of two definitions
		t.Errorf("%v, %d stopped", err, len(f.stops))
	}
	if len(swept) != 0 || len(kept) != 3 || kept[0].Err == nil { // each is looked at
		t.Errorf("%+v, %+v", swept, kept)
	}
	if defaultLife != server.DefaultMaxLife {
		t.Errorf("bastiond's life is %v, not %v", server.DefaultMaxLife, defaultLife)
	}
}
