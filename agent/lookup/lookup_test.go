package lookup

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// A name means the forward of the command's scope, or is refused; never another account's.
func TestChoose(t *testing.T) {
	const east, west = "us-east-1", "us-west-2"
	alice, bob := "arn:aws:sts::111111111111:assumed-role/r/alice", "arn:aws:sts::222222222222:assumed-role/r/bob"
	all := []api.Forward{
		{Name: "orders", Link: "lab", Profile: "lab", Region: east, Spec: "rds:orders", Detached: true},
		{Name: "orders", Link: "prod", Profile: "prod", Region: east, Spec: "rds:orders", Detached: true},
		{Name: "orders", Link: "west", Profile: "prod", Region: west, Spec: "rds:orders", Detached: true},
		{Name: "only", Link: "prod", Profile: "prod", Region: east, Spec: "rds:only", Detached: true},
		{Name: "own", Link: "none", Region: east, Spec: "rds:own", Detached: true},
		{Name: "own", Link: "prod", Profile: "prod", Region: east, Spec: "rds:own", Detached: true},
		{Name: "keys", Link: "alice", Region: east, Owner: alice, Spec: "rds:keys", Detached: true},
		{Name: "keys", Link: "bob", Region: east, Owner: bob, Spec: "rds:keys", Detached: true},
		// Of one target in one scope.
		{Name: "many-2", Link: "lab", Profile: "lab", Region: east, Spec: "rds:many", Detached: true},
		{Name: "many", Link: "lab", Profile: "lab", Region: east, Spec: "rds:many", Detached: true},
		{Name: "a-while", Link: "lab", Profile: "lab", Region: east, Spec: "rds:many"},
	}
	for _, tt := range []struct {
		ref  string
		m    Scope
		own  [2]string // what the command finds out of itself if it must
		want string    // link, and / name where that matters; or of the error a part
	}{
		{"orders", Scope{Profile: "prod", Region: east}, [2]string{}, "prod"},
		{"orders", Scope{Profile: "prod", Region: west}, [2]string{}, "west"},
		{"orders", Scope{Profile: "lab"}, [2]string{}, "lab"},
		{"orders", Scope{Profile: "prod"}, [2]string{west}, "west"},
		{"orders", Scope{Profile: "prod"}, [2]string{}, "several forwards"},
		{"orders", Scope{}, [2]string{}, "several forwards"},
		{"orders", Scope{Region: west}, [2]string{}, "west"},
		{"orders", Scope{Profile: "dev"}, [2]string{}, "no forward orders is of the profile dev"},
		{"orders", Scope{ByVariables: true}, [2]string{}, "no forward orders is of the credentials of your variables"},
		{"orders@west", Scope{Profile: "lab"}, [2]string{}, "west"},
		{"rds:orders", Scope{Profile: "prod", Region: east}, [2]string{}, "prod"},
		{"rds:orders", Scope{Profile: "dev"}, [2]string{}, "is of the profile dev"},
		{"only", Scope{}, [2]string{}, "prod"},
		{"only", Scope{Profile: "lab"}, [2]string{}, "no forward only is of the profile lab"},
		{"own", Scope{}, [2]string{}, "none"},
		{"own", Scope{Profile: "prod"}, [2]string{}, "prod"},
		{"keys", Scope{ByVariables: true}, [2]string{east, bob}, "bob"},
		{"keys", Scope{ByVariables: true}, [2]string{east, "arn:of:neither"}, "several forwards"},
		{"keys", Scope{Profile: "prod"}, [2]string{}, "no forward keys is of the profile prod"},
		{"rds:many", Scope{Profile: "lab"}, [2]string{}, "lab/many"},
		{"nonesuch", Scope{}, [2]string{}, "no such forward"},
	} {
		if tt.own[0] != "" {
			tt.m.WhoAmI = func(context.Context) (string, string, error) { return tt.own[0], tt.own[1], nil }
		}
		for range 2 { // whatever their order
			slices.Reverse(all)
			f, err := Choose(t.Context(), all, tt.ref, tt.m, func(f api.Forward) string { return f.Spec })
			link, name, _ := strings.Cut(tt.want, "/")
			switch {
			case err != nil:
				if !strings.Contains(err.Error(), tt.want) ||
					!errors.Is(err, ErrNone) && (fail.KindOf(err) != fail.NoTarget || fail.NextOf(err) == "") {
					t.Errorf("%s of %+v: %v (next: %s), want %s", tt.ref, tt.m, err, fail.NextOf(err), tt.want)
				}
			case f.Link != link || name != "" && f.Name != name:
				t.Errorf("%s of %+v: %s of %s, want %s", tt.ref, tt.m, f.Name, f.Link, tt.want)
			}
		}
	}
}

func TestFind(t *testing.T) {
	all := []api.Forward{
		{Name: "socks", Kind: api.KindProxy, State: api.ForwardReady},
		{Name: "orders", Spec: "rds:orders", State: api.ForwardReady},
		{Name: "orders-2", Spec: "rds:orders:5433", State: api.ForwardReady},
		{Name: "cache", Spec: "cache:c", State: api.ForwardFailed},
	}
	for name, want := range map[string]string{
		"orders": "orders", "orders-2": "orders-2", "rds:orders": "orders", "rds:orders:5433": "orders-2",
	} {
		if f, err := Find(t.Context(), all, name, Scope{}); err != nil || f.Name != want {
			t.Errorf("%s: %q, %v, want %q", name, f.Name, err, want)
		}
	}
	for name, says := range map[string]string{
		"socks": "name the forward of a database", "nope": "bastion forward -d nope; these run: cache, orders, orders-2",
		"cache:c": "bastion forward -d --name cache cache:c",
	} {
		if _, err := Find(t.Context(), all, name, Scope{}); fail.KindOf(err) != fail.NoTarget || !strings.Contains(fail.NextOf(err), says) {
			t.Errorf("%s: %v (next: %s)", name, err, fail.NextOf(err))
		}
	}
}

// A name that no command can start is not proposed as one.
func TestFindProposesTargets(t *testing.T) {
	m := Scope{IsTarget: func(text string) bool { return strings.HasPrefix(text, "rds:") }}
	for name, want := range map[string]string{"nope": "bastion forward -d SPEC, where", "rds:orders": "bastion forward -d rds:orders"} {
		if _, err := Find(t.Context(), nil, name, m); !strings.Contains(fail.NextOf(err), want) {
			t.Errorf("%s: %v (next: %s), want %s", name, err, fail.NextOf(err), want)
		}
	}
}

// What the hint of a forward that does not work says is a command that works.
func TestReopenIsACommand(t *testing.T) {
	for _, f := range []api.Forward{
		{Name: "db", Kind: api.KindTCP, Spec: "rds:orders", Listen: "127.0.0.1:15432"},
		{Name: "proxy", Kind: api.KindProxy, Listen: "127.0.0.1:1080"},
	} {
		next := reopen(f)
		_, port, _ := net.SplitHostPort(f.Listen)
		if !strings.Contains(next, "--name "+f.Name) || !strings.HasSuffix(next, " "+port) {
			t.Errorf("%+v: %s", f, next)
		}
	}
}
