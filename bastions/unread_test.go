package bastions

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// unreadable is an answer whose form is not AWS's: a number stands where a text belongs.
const unreadable = `{"tasks":[{"taskArn":1}],"task":{"taskArn":1}}`

// unreadAccount is a cluster in which RunTask starts the one task that there is. Its answers to the actions in broken cannot be read.
type unreadAccount struct {
	*wire
	started bool
	hidden  bool // the list does not show it
	tokens  map[string]bool
	stopped []string
}

func newUnreadAccount(t *testing.T, broken func(action string, call int) bool) *unreadAccount {
	u := &unreadAccount{tokens: make(map[string]bool)}
	normal := account(t, 1).answer
	u.wire = &wire{answer: func(action, body string, n int) (int, string) {
		var in struct{ ClientToken, Family, StartedBy, Task string }
		if err := json.Unmarshal([]byte(body), &in); err != nil && strings.HasPrefix(body, "{") {
			t.Error(err)
		}
		status, text := 200, `{"taskArns":[]}`
		switch {
		case action == "RunTask":
			u.started, u.tokens[in.ClientToken] = true, true
			text = mustJSON(map[string]any{"tasks": []any{wireTask(0)}})
		case action == "ListTasks" && (!u.started || u.hidden):
		case action == "ListTasks" && in.Family == "bastion":
			text = mustJSON(map[string]any{"taskArns": []string{wireARN(0), wireARN(7)}}) // the last is somebody else's
		case action == "ListTasks" && in.Family == "":
			text = mustJSON(map[string]any{"taskArns": []string{wireARN(0), wireARN(8)}}) // the last is of another family
		default:
			if action == "StopTask" {
				u.stopped = append(u.stopped, in.Task)
			}
			status, text = normal(action, body, n)
		}
		if broken(action, n) {
			return 200, unreadable
		}
		return status, text
	}}
	return u
}

// A task that has started is found by the owner's marks, or by its client token, where the answer to RunTask cannot be read.
func TestAnswerToRunTaskCannotBeRead(t *testing.T) {
	for name, tt := range map[string]struct {
		hidden bool
		runs   int
	}{
		"it is in the list":                {false, 1},
		"the list does not have it so far": {true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUnreadAccount(t, func(action string, call int) bool { return action == "RunTask" && call == 1 })
			u.hidden = tt.hidden
			b, started, err := u.manager(t).Ensure(t.Context(), networkSpec(), nil)
			if err != nil || !started || b.TaskARN != wireARN(0) {
				t.Errorf("Ensure = %+v, %v, %v", b, started, err)
			}
			if u.calls["RunTask"] != tt.runs || len(u.tokens) != 1 {
				t.Errorf("%d RunTask calls with %d client tokens", u.calls["RunTask"], len(u.tokens))
			}
		})
	}
}

// If no description of a task is readable, the error says that one may run, and Stop stops the owner's tasks of the family.
func TestNothingOfTasksCanBeRead(t *testing.T) {
	u := newUnreadAccount(t, func(action string, _ int) bool {
		return action == "RunTask" || action == "DescribeTasks" || action == "StopTask"
	})
	m := u.manager(t)
	_, _, err := m.Ensure(t.Context(), networkSpec(), nil)
	checkError(t, err, fail.Start, []string{"a task may have started"}, "bastion down")
	if u.calls["RunTask"] != 1 {
		t.Errorf("%d RunTask calls", u.calls["RunTask"])
	}
	stopped, left, err := m.Stop(t.Context(), networkSpec(), "test", false)
	if err != nil || len(stopped) != 1 || stopped[0].TaskARN != wireARN(0) || len(left) != 0 || len(u.stopped) != 1 ||
		u.stopped[0] != wireARN(0) {
		t.Errorf("Stop = %+v, %+v, %v; asked for %q", stopped, left, err, u.stopped)
	}
}
