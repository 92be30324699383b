package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/lab"
)

const notRunning = "The execute command failed because execute command was not enabled when the task was run or the execute " +
	"command agent isn’t running. Wait and try again or run a new task with execute command enabled and try again."

// What AWS says decides, not the code alone: an answer of a task that is starting is waited for, one about the call is told.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const exec, start = "ecs:ExecuteCommand", "ssm:StartSession"
	for name, tt := range map[string]struct {
		action  string
		answer  lab.APIError
		code    int    // exit code; 0: it works in the end
		hint    string // that the user reads
		explain string
	}{
		"exec agent is starting":   {exec, lab.APIError{Code: "InvalidParameterException", Message: notRunning, Count: 3}, 0, "", ""},
		"the command is wrong":     {exec, lab.APIError{Code: "InvalidParameterException", Message: "Bad command."}, 6, "", "Bad command."},
		"exec is throttled":        {exec, lab.APIError{Code: "ThrottlingException", Message: "Rate exceeded", Count: 9}, 0, "", ""},
		"AWS fails":                {exec, lab.APIError{Code: "ServerException", Message: "Service Unavailable.", Status: 500, Count: 8}, 0, "", ""},
		"a code of tomorrow fails": {start, lab.APIError{Code: "Odd", Message: "odd", Status: 503, Count: 8}, 0, "", ""},
		"a code of tomorrow":       {start, lab.APIError{Code: "Odd", Message: "odd", Status: 400}, 6, "", "Odd: odd"},
		"all places are taken": {
			exec, lab.APIError{
				Code: "ClientException", Count: 3,
				Message: "Unable to start new execute sessions because the maximum session limit of 2 has been reached.",
			}, 0, "", "",
		},
		"a service control policy": {
			start,
			lab.APIError{Code: "AccessDeniedException", Message: "User: u is not authorized to perform: ssm:StartSession on " +
				"resource: r with an explicit deny in a service control policy"},
			5, "hint: ask the administrators of your AWS organization: a service control policy denies ssm:StartSession", "",
		},
		"a permissions boundary": {
			exec,
			lab.APIError{Code: "AccessDeniedException", Message: "User: u is not authorized to perform: ecs:ExecuteCommand on " +
				"resource: r because no permissions boundary allows the ecs:ExecuteCommand action"},
			5, "hint: ask your AWS administrators to allow ecs:ExecuteCommand in your permissions boundary", "",
		},
		"expired in another code": {
			start,
			lab.APIError{Code: "UnrecognizedClientException", Message: "The security token included in the request is expired"},
			4, "sign in again", "",
		},
		"an account without places": {
			"ecs:RunTask", lab.APIError{
				Code: "ThrottlingException", Message: "You’ve reached the limit on the number of tasks you can run concurrently",
			}, 6, "hint: ask for a higher quota", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startLab(t, nil)
			if err := e.SetAPIFaults(lab.APIFaults{Errors: map[string]lab.APIError{tt.action: tt.answer}}); err != nil {
				t.Fatal(err)
			}
			if tt.code == 0 {
				p, f := e.forwards(nil, "cache:sessions", ":")
				hold(t, f[0].Listen)
				e.stop(p, syscall.SIGINT, 130)
				return
			}
			r := e.run(nil, "forward", "--no-agent", "cache:sessions", ":")
			if r.code != tt.code || !strings.Contains(r.stderr, tt.hint) || !strings.Contains(r.stderr, tt.explain) {
				t.Errorf("exit code %d, want %d and %q\n%s", r.code, tt.code, tt.hint+tt.explain, r.stderr)
			}
			// At most two attempts, by two documents each.
			if calls := e.Calls()[tt.action]; calls > 4 && tt.action != "ecs:RunTask" {
				t.Errorf("%d calls", calls)
			}
		})
	}
}

// A task that stops while its exec agent is waited for ends the wait, though AWS answers as for one that is starting.
func TestTaskStopsWhileWaitedFor(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	e.must("up", "-q")
	if err := e.SetAPIFaults(lab.APIFaults{Errors: map[string]lab.APIError{
		"ecs:ExecuteCommand": {Code: "InvalidParameterException", Message: notRunning},
	}}); err != nil {
		t.Fatal(err)
	}
	p := e.start([]string{"BASTION_REMEMBER_HOST_KEYS=false"}, "forward", "--no-agent", "cache:sessions", ":")
	eventually(t, "the wait", func() bool { return e.Calls()["ecs:ExecuteCommand"] > 2 })
	e.stopTasks()
	eventuallyWithin(t, 90*time.Second, "the end of the wait", func() bool { return strings.Contains(p.Output(), "the task has stopped") })
	e.stop(p, syscall.SIGINT, 6)
	if n := e.Calls()["ecs:RunTask"]; n != 1 {
		t.Errorf("%d tasks were started: the one that was stopped is not wanted any more", n)
	}
}
