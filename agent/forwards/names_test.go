package forwards

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

// A name means one forward, or is refused with what means each alone.
func TestCalled(t *testing.T) {
	r := new(Registry)
	there := make(map[string]*Forward)
	for _, f := range []struct{ profile, name, link string }{{"lab", "db", "l1"}, {"prod", "db", "l2"}, {"lab", "cache", "l1"}} {
		rec := record(f.profile, f.name, "rds:x")
		rec.Link = f.link
		there[f.name+"@"+f.link] = ready(t, r, rec, true)
	}
	opened(t, r, record("lab", "soon", "rds:x"), true) // nobody has heard of it
	for _, tt := range []struct {
		ref  string
		want []string // none: refused
		says string
	}{
		{"cache", []string{"cache@l1"}, ""},
		{"db", nil, "db@l1 or db@l2"},
		{"db@l2", []string{"db@l2"}, ""},
		{"cache@l2", nil, `there are cache, db;`},
		{"nope", nil, `there are cache, db;`},
		{"soon", nil, `there are cache, db;`},
		{"all", []string{"cache@l1", "db@l1", "db@l2"}, ""},
	} {
		found, err := r.Called(tt.ref)
		var got []string
		for ref, f := range there {
			if slices.Contains(found, f) {
				got = append(got, ref)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, tt.want) || len(found) != len(got) || (err != nil) != (tt.want == nil) ||
			!strings.Contains(fail.NextOf(err), tt.says) {
			t.Errorf("%s: %v, %v (next: %s)", tt.ref, got, err, fail.NextOf(err))
		}
	}
	shown := []api.Forward{
		{Name: "db", Link: "l1", Opened: tuesday},
		{Name: "db", Link: "l2", Opened: monday},
		{Name: "cache", Link: "l1", Opened: monday},
	}
	Sort(shown)
	Refer(shown)
	if shown[0].Ref != "cache" || shown[1].Ref != "db@l2" || shown[2].Ref != "db@l1" {
		t.Errorf("%+v", shown)
	}
}

// named returns a registry with one forward of each kind that can have a name.
func named(t *testing.T) *Registry {
	t.Helper()
	r := new(Registry)
	older := func(name string) Record { // as an older version wrote it down
		rec := record("lab", name, "rds:"+name)
		rec.Region = ""
		return rec
	}
	ready(t, r, record("lab", "db", "rds:db"), true)
	opened(t, r, record("lab", "opens", "rds:opens"), true)
	r.Restore(record("lab", "lost", "rds:lost"), monday)
	ready(t, r, older("older"), true)
	r.Restore(older("gone"), monday)
	return r
}

// A name that was asked for is the forward's, from the first on, or refused.
func TestNames(t *testing.T) {
	for _, tt := range []struct {
		what  string
		asked []Asked
		taken bool
	}{
		{"taken", []Asked{{record("lab", "db", "rds:other"), true, 0}}, true},
		{"taken, by the same target", []Asked{{record("lab", "db", "rds:db"), true, 0}}, true},
		{"of another profile", []Asked{{record("prod", "db", "rds:other"), true, 0}}, false},
		{"made of the target", []Asked{{record("lab", "", "rds:db"), false, 0}}, false},
		{"twice in one request", []Asked{{record("lab", "two", "rds:a"), false, 0}, {record("lab", "two", "rds:b"), false, 0}}, true},
		{"of one that opens", []Asked{{record("lab", "opens", "rds:opens"), true, 0}}, true},
		{"of one that is to come back", []Asked{{record("lab", "lost", "rds:other"), true, 0}}, true},
		{"of an older version's", []Asked{{record("lab", "older", "rds:other"), true, 0}}, true},
		{"of an older version's that is to come back", []Asked{{record("lab", "gone", "rds:other"), true, 0}}, true},
		{"in place of an older version's", []Asked{{record("lab", "gone", "rds:gone"), true, 0}}, false},
		{"in place of one that is to come back", []Asked{{record("lab", "lost", "rds:lost"), true, 0}}, false},
		{"attached, of the target of one that is to come back", []Asked{{record("lab", "lost", "rds:lost"), false, 0}}, true},
	} {
		_, err := named(t).Open(tt.asked, monday)
		if taken, ok := errors.AsType[*api.NameTaken](err); ok != tt.taken || ok && (taken.Name == "" || fail.KindOf(err) != fail.Usage) {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
	// The refusal keeps its kind, by the API too, and has the address of an open forward. It proposes to stop what can be stopped.
	for name, by := range map[string]string{"db": "rds:db at 127.0.0.1:1", "opens": "rds:opens", "lost": "rds:lost at 127.0.0.1:1"} {
		r := named(t)
		for _, f := range r.forwards {
			f.record.Request.Listen = "127.0.0.1:1"
		}
		_, err := r.Open([]Asked{{record("lab", name, "rds:other"), true, 0}}, monday)
		if taken, ok := errors.AsType[*api.NameTaken](api.NewError(err).Err()); !ok || taken.Name != name || taken.By != by {
			t.Errorf("by the API: %v, want by %s", api.NewError(err).Err(), by)
		}
		_, unknown := r.Called(name)
		if proposed := strings.Contains(fail.NextOf(err), "bastion stop "+name); proposed != (unknown == nil) {
			t.Errorf("%s: %q, and bastion stop says %v", name, fail.NextOf(err), unknown)
		}
	}
}

// A name that was made gets a number. A forward that is to come back keeps its own, but for the same target.
func TestMadeNames(t *testing.T) {
	for _, tt := range []struct {
		profile, name, target string
		detached              bool
		want                  string
	}{
		{"lab", "db", "rds:db", true, "db-2"},
		{"lab", "opens", "rds:opens", true, "opens-2"},
		{"lab", "", "", false, "tcp"},
		{"lab", "lost", "rds:other", true, "lost-2"},
		{"lab", "lost", "rds:lost", false, "lost-2"},
		{"lab", "lost", "rds:lost", true, "lost"},
		{"prod", "lost", "rds:other", true, "lost"},
		{"lab", "older", "rds:other", true, "older-2"},
		{"lab", "gone", "rds:gone", true, "gone"},
	} {
		r := named(t)
		waits := len(r.Unopened())
		f := opened(t, r, record(tt.profile, "", tt.target), tt.detached)
		replaced, err := r.Ready(f, record(tt.profile, tt.name, tt.target), monday)
		if err != nil || f.Name() != tt.want {
			t.Errorf("the name of %s, detached %t, is %s, want %s: %v", tt.target, tt.detached, f.Name(), tt.want, err)
		}
		// One that takes the name of one that is to come back takes its place.
		place := tt.profile == "lab" && tt.want == tt.name
		if (len(replaced) == 1) != place || len(r.Unopened()) != waits-len(replaced) || place && replaced[0].State() != Ended {
			t.Errorf("%s, detached %t, replaces %d", tt.target, tt.detached, len(replaced))
		}
		next := opened(t, r, record(tt.profile, "", tt.target), tt.detached)
		if _, err := r.Ready(next, record(tt.profile, tt.name, tt.target), monday); err != nil || next.Name() == f.Name() {
			t.Errorf("the next one is %s, %v", next.Name(), err)
		}
	}
}

// A forward that is to come back waits while another one has its name, or opens under it.
func TestReopenNames(t *testing.T) {
	r := named(t)
	for _, f := range r.Unopened() {
		other := opened(t, r, record("lab", f.Name(), "rds:"+f.Name()), true)
		if err := r.Reopen(f, "127.0.0.1:1", "link", monday); err == nil || f.State() != Unopened {
			t.Errorf("%s is %s beside one that opens", f.Name(), f.State())
		}
		r.End(other, errGone)
		if err := r.Reopen(f, "127.0.0.1:1", "link", monday); err != nil {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"db": true, "a.b-c_d": true, "_x": true, strings.Repeat("a", 63): true,
		"": false, "all": false, "-a": false, ".": false, "a b": false, "a@b": false, "a/b": false, strings.Repeat("a", 64): false,
	} {
		if ValidName(name) != want {
			t.Errorf("%q is valid: %t", name, !want)
		}
	}
}

// The names of the configuration's targets are names of forwards, and stay such with a number.
func TestNamesOfTargets(t *testing.T) {
	for _, name := range []string{"db", "_x", "A_b-3", "3a", strings.Repeat("x", 62), strings.Repeat("x", 63)} {
		if err := targets.CheckName(name); err != nil || !ValidName(name) {
			t.Errorf("%s: %v", name, err)
		}
		for _, n := range []int{2, 10, Max} {
			if got := Numbered(name, n); !ValidName(got) || !strings.HasSuffix(got, "-"+strconv.Itoa(n)) {
				t.Errorf("%s with the number %d is %s", name, n, got)
			}
		}
	}
}
