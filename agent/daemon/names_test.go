package daemon

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// A name means one forward, or is refused with what means each alone.
func TestCalled(t *testing.T) {
	lab, prod := scope{profile: "lab", region: "r"}, scope{profile: "prod", region: "r"}
	there := map[ident]string{{lab, "db"}: "l1", {prod, "db"}: "l2", {lab, "cache"}: "l1"}
	for _, tt := range []struct {
		ref  string
		want []ident // none: refused
		says string
	}{
		{"cache", []ident{{lab, "cache"}}, ""},
		{"db", nil, "db@l1 or db@l2"},
		{"db@l2", []ident{{prod, "db"}}, ""},
		{"cache@l2", nil, `there are ["cache" "db"]`},
		{"nope", nil, `there are ["cache" "db"]`},
		{"all", []ident{{lab, "cache"}, {lab, "db"}, {prod, "db"}}, ""},
	} {
		got, err := called(there, tt.ref)
		slices.SortFunc(got, func(x, y ident) int { return strings.Compare(x.name+x.scope.profile, y.name+y.scope.profile) })
		if !slices.Equal(got, tt.want) || (err != nil) != (tt.want == nil) || !strings.Contains(fail.NextOf(err), tt.says) {
			t.Errorf("%s: %v, %v (next: %s)", tt.ref, got, err, fail.NextOf(err))
		}
	}
	forwards := []api.Forward{{Name: "db", Link: "l1"}, {Name: "db", Link: "l2"}, {Name: "cache", Link: "l1"}}
	refer(forwards)
	if forwards[0].Ref != "db@l1" || forwards[1].Ref != "db@l2" || forwards[2].Ref != "cache" {
		t.Errorf("%+v", forwards)
	}
}

// A name that was asked for is the forward's or refused. One that was made gets a number.
func TestNames(t *testing.T) {
	d := New(Config{StateDir: t.TempDir()})
	defer d.cancel()
	made := func(profile, name, target string, named, detached bool) *forward {
		f := &forward{d: d, named: named, detached: detached}
		f.record.Request = api.ForwardRequest{Name: name, Target: target, Kind: api.KindTCP}
		f.record.Scope.Env, f.record.Region = map[string]string{"AWS_PROFILE": profile}, "r"
		return f
	}
	old := made("lab", "db", "rds:db", true, true)
	d.forwards[old.record.ident()] = old
	lost := made("lab", "lost", "rds:lost", true, true)
	d.unopened[lost.record.ident()] = unopened{record: lost.record}
	older := made("lab", "older", "rds:older", true, true)
	older.record.Region = "" // as an older version wrote it down
	d.forwards[older.record.ident()] = older
	gone := made("lab", "gone", "rds:gone", true, true)
	gone.record.Region = ""
	d.unopened[gone.record.ident()] = unopened{record: gone.record}
	for _, tt := range []struct {
		name     string
		forwards []*forward
		taken    bool
	}{
		{"taken", []*forward{made("lab", "db", "rds:other", true, true)}, true},
		{"of another profile", []*forward{made("prod", "db", "rds:other", true, true)}, false},
		{"made of the target", []*forward{made("lab", "db", "rds:db", false, false)}, false},
		{"twice in one request", []*forward{made("lab", "two", "rds:a", true, false), made("lab", "two", "rds:b", true, false)}, true},
		{"of one that is to come back", []*forward{made("lab", "lost", "rds:other", true, true)}, true},
		{"of an older version's", []*forward{made("lab", "older", "rds:other", true, true)}, true},
		{"of an older version's that is to come back", []*forward{made("lab", "gone", "rds:other", true, true)}, true},
		{"in place of an older version's", []*forward{made("lab", "gone", "rds:gone", true, true)}, false},
		{"in place of one that is to come back", []*forward{made("lab", "lost", "rds:lost", true, true)}, false},
	} {
		err := d.checkNames(tt.forwards)
		if taken, ok := errors.AsType[*api.NameTaken](err); ok != tt.taken || ok && (taken.Name == "" || fail.KindOf(err) != fail.Usage) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if id := d.freeName(old, map[ident]bool{{old.record.scope(), "db-2"}: true}); id.name != "db-3" {
		t.Errorf("the free name is %s", id.name)
	}
	// One that is to come back keeps its name, but for the same target.
	for _, tt := range []struct {
		f    *forward
		want string
	}{
		{made("lab", "lost", "rds:other", false, true), "lost-2"},
		{made("lab", "lost", "rds:lost", false, false), "lost-2"},
		{made("lab", "lost", "rds:lost", false, true), "lost"},
		{made("prod", "lost", "rds:other", false, true), "lost"},
		{made("lab", "older", "rds:other", false, true), "older-2"},
	} {
		if id := d.freeName(tt.f, nil); id.name != tt.want {
			t.Errorf("the free name for %s, detached %t, is %s, want %s", tt.f.record.Request.Target, tt.f.detached, id.name, tt.want)
		}
	}
	// It is told as what it is, by the API too.
	err := d.checkNames([]*forward{made("lab", "db", "rds:other", true, true)})
	if taken, ok := errors.AsType[*api.NameTaken](api.NewError(err).Err()); !ok || taken.Name != "db" || taken.By != "rds:db" {
		t.Errorf("by the API: %v", api.NewError(err).Err())
	}
}
