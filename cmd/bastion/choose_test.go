package main

import (
	"context"
	"errors"
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
		m    meant
		own  [2]string // what the command finds out of itself if it must
		want string    // link, and / name where that matters; or of the error a part
	}{
		{"orders", meant{profile: "prod", region: east}, [2]string{}, "prod"},
		{"orders", meant{profile: "prod", region: west}, [2]string{}, "west"},
		{"orders", meant{profile: "lab"}, [2]string{}, "lab"},
		{"orders", meant{profile: "prod"}, [2]string{west}, "west"},
		{"orders", meant{profile: "prod"}, [2]string{}, "several forwards"},
		{"orders", meant{}, [2]string{}, "several forwards"},
		{"orders", meant{region: west}, [2]string{}, "west"},
		{"orders", meant{profile: "dev"}, [2]string{}, "no forward orders is of the profile dev"},
		{"orders", meant{byVariables: true}, [2]string{}, "no forward orders is of the credentials of your variables"},
		{"orders@west", meant{profile: "lab"}, [2]string{}, "west"},
		{"rds:orders", meant{profile: "prod", region: east}, [2]string{}, "prod"},
		{"rds:orders", meant{profile: "dev"}, [2]string{}, "is of the profile dev"},
		{"only", meant{}, [2]string{}, "prod"},
		{"only", meant{profile: "lab"}, [2]string{}, "no forward only is of the profile lab"},
		{"own", meant{}, [2]string{}, "none"},
		{"own", meant{profile: "prod"}, [2]string{}, "prod"},
		{"keys", meant{byVariables: true}, [2]string{east, bob}, "bob"},
		{"keys", meant{byVariables: true}, [2]string{east, "arn:of:neither"}, "several forwards"},
		{"keys", meant{profile: "prod"}, [2]string{}, "no forward keys is of the profile prod"},
		{"rds:many", meant{profile: "lab"}, [2]string{}, "lab/many"},
		{"nonesuch", meant{}, [2]string{}, "no such forward"},
	} {
		if tt.own[0] != "" {
			tt.m.whoami = func(context.Context) (string, string, error) { return tt.own[0], tt.own[1], nil }
		}
		for range 2 { // whatever their order
			slices.Reverse(all)
			f, err := choose(t.Context(), all, tt.ref, tt.m, func(f api.Forward) string { return f.Spec })
			link, name, _ := strings.Cut(tt.want, "/")
			switch {
			case err != nil:
				if !strings.Contains(err.Error(), tt.want) || !errors.Is(err, errNoForward) && (fail.KindOf(err) != fail.NoTarget || fail.NextOf(err) == "") {
					t.Errorf("%s of %+v: %v (next: %s), want %s", tt.ref, tt.m, err, fail.NextOf(err), tt.want)
				}
			case f.Link != link || name != "" && f.Name != name:
				t.Errorf("%s of %+v: %s of %s, want %s", tt.ref, tt.m, f.Name, f.Link, tt.want)
			}
		}
	}
}
