package bastions

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestFindChooses(t *testing.T) {
	pending := func(t *fakeTask) { t.LastStatus = aws.String("PENDING") }
	noAgent := func(t *fakeTask) { running(&t.Task) }
	for _, tt := range []struct {
		name  string
		tasks []func(*fakeTask) // nil is ready; each a minute younger than the one before
		want  int               // index of the chosen; -1: none
	}{
		{"none", nil, -1},
		{"newest of the ready", []func(*fakeTask){nil, nil, nil}, 2},
		{"ready before newer", []func(*fakeTask){nil, pending, noAgent}, 0},
		{"oldest of the starting", []func(*fakeTask){pending, pending, noAgent}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{}
				for i, change := range tt.tasks {
					f.mine(time.Hour-time.Duration(i)*time.Minute, change)
				}
				var log bytes.Buffer
				m := New(Config{ECS: f, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				b, err := m.Find(t.Context(), testSpec())
				if err != nil {
					t.Fatal(err)
				}
				if tt.want < 0 {
					if b != nil {
						t.Errorf("Find = %+v", b)
					}
					return
				}
				if b == nil || b.TaskARN != *f.tasks[tt.want].TaskArn {
					t.Errorf("Find = %+v, want task %d", b, tt.want)
				}
				for i := range f.tasks {
					if i != tt.want && !strings.Contains(log.String(), lastPart(*f.tasks[i].TaskArn)) {
						t.Errorf("task %d is not reported: %s", i, log.String())
					}
				}
			})
		})
	}
}

func TestGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		m := New(Config{ECS: f})
		mine := f.mine(time.Hour, nil)
		other := f.mine(time.Hour, func(t *fakeTask) { t.StartedBy = aws.String("ci") })
		for _, name := range []string{*mine.TaskArn, lastPart(*mine.TaskArn)} {
			if b, err := m.Get(t.Context(), testSpec(), name); err != nil || b.TaskARN != *mine.TaskArn {
				t.Errorf("Get(%s) = %+v, %v", name, b, err)
			}
		}
		_, err := m.Get(t.Context(), testSpec(), *other.TaskArn)
		checkError(t, err, fail.NoTarget, []string{"not yours: it was started by ci"}, "")
		other.Tags = nil
		_, err = m.Get(t.Context(), testSpec(), *other.TaskArn)
		checkError(t, err, fail.NoTarget, []string{"not yours: it has no tag bastion:owner"}, "")
		twice := f.mine(time.Hour, nil)
		twice.Tags = append(twice.Tags, types.Tag{Key: aws.String("Bastion:Owner"), Value: aws.String("AROAOTHER:mallory")})
		_, err = m.Get(t.Context(), testSpec(), *twice.TaskArn)
		checkError(t, err, fail.NoTarget, []string{"not yours: it has the tag Bastion:Owner beside bastion:owner"}, "")
		spec := testSpec()
		spec.Tags = map[string]string{"bastion:Owner": "x"}
		if _, err := m.runInput(spec, nil); err == nil || !strings.Contains(err.Error(), "the tag bastion:Owner cannot be set") {
			t.Error(err)
		}
		_, err = m.Get(t.Context(), testSpec(), "none")
		checkError(t, err, fail.NoTarget, []string{"look at task none in cluster demo: there is no such task"}, "bastion up")
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		m := New(Config{ECS: f})
		if stopped, left, err := m.Stop(t.Context(), testSpec(), "none", false); err != nil || len(stopped)+len(left) != 0 {
			t.Errorf("Stop of nothing = %v, %v, %v", stopped, left, err)
		}
		f.mine(time.Hour, nil)
		f.mine(time.Minute, func(t *fakeTask) { t.LastStatus = aws.String("PENDING") })
		f.mine(time.Minute, func(t *fakeTask) { running(&t.Task); t.EnableExecuteCommand = false })
		f.mine(time.Minute, func(t *fakeTask) { t.LastStatus = aws.String("STOPPING") })
		other := f.mine(time.Minute, func(t *fakeTask) { t.Tags = nil })
		stopped, _, err := m.Stop(t.Context(), testSpec(), strings.Repeat("é", 200), false)
		if err != nil || len(stopped) != 3 {
			t.Errorf("Stop = %+v, %v", stopped, err)
		}
		if live := f.live(); !slices.Contains(live, lastPart(*other.TaskArn)) || len(f.stops) != 3 {
			t.Errorf("live %v, %d stops", live, len(f.stops))
		}
		if reason := *f.stops[0].Reason; len(reason) > 255 || reason != strings.Repeat("é", 127) {
			t.Errorf("reason %q", reason)
		}
	})
}

// TestStopPartly: Stop reports the tasks that it stopped before an error.
func TestStopPartly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		f.before = func(_ context.Context, call string) error {
			if call == "StopTask" && f.count("StopTask") == 2 {
				return &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}
			}
			return nil
		}
		f.mine(time.Hour, nil)
		f.mine(time.Minute, nil)
		stopped, _, err := New(Config{ECS: f}).Stop(t.Context(), testSpec(), "test", false)
		checkError(t, err, fail.Denied, []string{"stop task"}, "ecs:StopTask")
		if len(stopped) != 1 {
			t.Errorf("stopped %+v", stopped)
		}
	})
}

func TestOwnerTag(t *testing.T) {
	role, user := "AROA0123456789EXAMPLE:", "AIDA0123456789EXAMPLE"
	for _, id := range []string{user, role + "jo.doe+x=y_z-1@example.org", role + "Zoë", "000000000000:federated"} {
		if got, err := NewOwner(testARN, id).tag(); err != nil || got != id {
			t.Errorf("tag of %s = %s, %v", id, got, err)
		}
	}
	for id, want := range map[string]string{
		role + "jo,data":                "','",
		role + "jo\u202edata":           `'\u202e'`,
		role + "jo*":                    "'*'",
		role + "${aws:userid}":          "'$'",
		role + strings.Repeat("x", 256): "longer than a tag's 256",
	} {
		_, err := NewOwner(testARN, id).tag()
		checkError(t, err, fail.Usage, []string{want}, "session name of letters, digits")
	}
	if _, err := (Owner{}).tag(); err == nil {
		t.Error("nobody has a tag")
	}
}

func TestVersionTag(t *testing.T) {
	for version, want := range map[string]string{"(devel)": "devel", "v1.2.3-4-gabc+dirty": "v1.2.3-4-gabc+dirty", "()": ""} {
		if got := versionTag(version); got != want {
			t.Errorf("versionTag(%s) = %s", version, got)
		}
	}
}

// TestBadOwner: a session name that a tag cannot hold is told before anything is asked or started.
func TestBadOwner(t *testing.T) {
	spec := testSpec()
	spec.Owner = NewOwner(testARN, "AROA0TEST:jo,data")
	f := &fakeECS{}
	m := New(Config{ECS: f})
	for name, call := range map[string]func() error{
		"Ensure": func() error { _, _, err := m.Ensure(t.Context(), spec, nil); return err },
		"List":   func() error { _, err := m.List(t.Context(), spec); return err },
		"Get":    func() error { _, err := m.Get(t.Context(), spec, "1"); return err },
		"Stop":   func() error { _, _, err := m.Stop(t.Context(), spec, "", true); return err },
		"run":    func() error { _, err := m.runInput(spec, nil); return err },
	} {
		t.Run(name, func(t *testing.T) {
			checkError(t, call(), fail.Usage, []string{"AROA0TEST:jo,data", "the character ','"}, "role_session_name")
		})
	}
	if len(f.calls) != 0 {
		t.Errorf("calls %v", f.calls)
	}
}

func TestChooseContainer(t *testing.T) {
	container := func(names ...string) []types.Container {
		var all []types.Container
		for _, n := range names {
			all = append(all, types.Container{Name: aws.String(n)})
		}
		return all
	}
	for _, tt := range []struct {
		name string
		all  []types.Container
		want string
	}{
		{"", container("web"), "web"},
		{"", container("log", "bastion"), "bastion"},
		{"", container("log", "web"), ""},
		{"log", container("log", "bastion"), "log"},
		{"x", container("log"), ""},
		{"", nil, ""},
	} {
		got := ""
		if c := chooseContainer(tt.name, tt.all); c != nil {
			got = *c.Name
		}
		if got != tt.want {
			t.Errorf("chooseContainer(%q, %d) = %q, want %q", tt.name, len(tt.all), got, tt.want)
		}
	}
}

func TestFamily(t *testing.T) {
	for _, in := range []string{"bastion", "bastion:7", testFamily} {
		if got := family(in); got != "bastion" {
			t.Errorf("family(%q) = %q", in, got)
		}
	}
}
