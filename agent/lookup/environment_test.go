package lookup

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// A command of an environment means a forward there, also where the profile and region are the same. A forward of an older agent,
// which does not know environments, is found by its profile and region.
func TestChooseByEnvironment(t *testing.T) {
	all := []api.Forward{
		{Name: "orders", Link: "1", Environment: "dev", Profile: "p", Region: "r"},
		{Name: "orders", Link: "2", Environment: "prod", Profile: "p", Region: "r"},
		{Name: "old", Link: "3", Profile: "p", Region: "r"},
		{Name: "alone", Link: "4", Environment: "prod", Profile: "q", Region: "s"},
	}
	for _, c := range []struct {
		name string
		m    Scope
		link string // "": an error
	}{
		{"orders", Scope{Environment: "dev", Profile: "p", Region: "r"}, "1"},
		{"orders", Scope{Environment: "prod", Profile: "p", Region: "r"}, "2"},
		{"orders", Scope{Environment: "stage", Profile: "p", Region: "r"}, ""},
		{"orders", Scope{Profile: "p"}, ""},
		{"orders", Scope{}, ""},
		{"orders@2", Scope{}, "2"},
		{"old", Scope{Environment: "prod", Profile: "p", Region: "r"}, "3"},
		{"old", Scope{Environment: "prod", Profile: "q", Region: "r"}, ""},
		{"alone", Scope{}, "4"},
		{"alone", Scope{Environment: "dev"}, ""},
	} {
		f, err := Choose(t.Context(), all, c.name, c.m)
		if (err == nil) != (c.link != "") || f.Link != c.link {
			t.Errorf("%s of %v: %q, %v; want %q", c.name, c.m, f.Link, err, c.link)
		}
		if err != nil && fail.KindOf(err) != fail.NoTarget {
			t.Errorf("%s of %v: %v", c.name, c.m, err)
		}
	}
}

// Where there is no such forward, the error and its next step name the environment, and the forwards that run have theirs.
func TestFindNamesTheEnvironment(t *testing.T) {
	all := []api.Forward{{Name: "orders", Environment: "dev", Profile: "p"}}
	_, err := Find(t.Context(), all, "billing", Scope{Environment: "prod", Profile: "p"})
	if err == nil || err.Error() != "no forward of prod/billing is running" {
		t.Errorf("got %v", err)
	}
	if next := fail.NextOf(err); !strings.Contains(next, "-d prod/billing") || !strings.HasSuffix(next, "these run: dev/orders") {
		t.Errorf("next step: %s", next)
	}
}
