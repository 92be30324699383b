package account

import (
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/targets"
)

// The users' policy allows the calls that look targets up, apart from those that an operator adds, and its statements about them allow no
// others. The limit is IAM's for a managed policy, without spaces.
func TestUsersLookUpTargets(t *testing.T) {
	s := newStack(t, variants["secrets"])
	calls, more := make(map[string]bool), make(map[string]bool)
	for _, d := range targets.Kinds() {
		for _, action := range d.Actions() {
			calls[action] = true
		}
		for _, action := range d.More {
			if !calls[action] {
				t.Errorf("%s is left to the operator, and no call needs it", action)
			}
			more[action] = true
		}
	}
	allowed := make(map[string]bool)
	for _, statement := range s.sessionStatements() {
		for _, action := range statement.Action {
			allowed[action] = true
		}
	}
	for action := range calls {
		if !allowed[action] && !more[action] {
			t.Errorf("the users' policy lacks %s", action)
		}
		if allowed[action] && more[action] {
			t.Errorf("the users' policy allows %s, which is for the operator to allow", action)
		}
	}
	for _, statement := range lookUps() {
		for _, action := range statement.Action {
			if !calls[action] {
				t.Errorf("%s: no call needs %s", statement.Sid, action)
			}
		}
		if !slices.IsSorted(statement.Action) {
			t.Errorf("%s: the actions are not sorted", statement.Sid)
		}
	}
	const most = 6144
	for id, document := range s.policies() {
		if !strings.HasPrefix(id, "UserPolicy") {
			continue
		}
		text, err := marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(strings.Join(strings.Fields(string(text)), "")); n > most {
			t.Errorf("%s has %d characters, more than IAM's %d", id, n, most)
		}
	}
}
