//go:build unix

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/lab"
)

// A link that waits says so with AWS's last answer wherever somebody looks, and a command that needs it ends with that answer.
func TestWaitingLinkSaysWhy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		faults lab.APIFaults
		says   string // AWS
		code   int    // of a command that needs the link
		next   string
	}{
		{"denied", lab.APIFaults{Deny: []string{"ssm:StartSession"}}, "AccessDeniedException", 5, "ssm:StartSession"},
		{"expired", lab.APIFaults{Errors: map[string]lab.APIError{"ssm:StartSession": {
			Code: "ExpiredTokenException", Message: "The security token included in the request is expired",
		}}}, "ExpiredTokenException", 4, "sign in"},
		{"throttled", lab.APIFaults{Throttle: map[string]int{"ssm:StartSession": -1}}, "Rate exceeded", 9, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := startAgentLab(t, nil)
			e.env = append(e.env, "BASTION_CONNECT_TIMEOUT=5s", "AWS_MAX_ATTEMPTS=1")
			f := e.detach("cache:sessions", ":")
			if err := e.SetAPIFaults(tt.faults); err != nil {
				t.Fatal(err)
			}
			var shown api.Forward
			e.endSessionsUntil("the forward waits, with the reason", func() bool {
				shown = e.state().Forwards[0]
				return shown.State == api.ForwardWaiting && strings.Contains(shown.Error, tt.says)
			})
			if shown.Since.IsZero() || !strings.Contains(shown.Next, tt.next) {
				t.Errorf("the forward: %+v", shown)
			}
			link := e.state().Links[0]
			if link.State != api.LinkWaiting || !strings.Contains(link.Error, tt.says) || len(link.Live) != 1 ||
				!strings.Contains(link.Live[0].Error, tt.says) {
				t.Errorf("the link: %+v", link)
			}
			for _, args := range []string{"ls", "ls -o json", "status", "status -o json", "top"} {
				r := e.run(nil, strings.Fields(args)...)
				if r.code != 0 || !strings.Contains(r.stdout, "waiting") || !strings.Contains(r.stdout, tt.says) {
					t.Errorf("%s: exit code %d, %s%s", args, r.code, r.stdout, r.stderr)
				}
				if strings.HasSuffix(args, "json") && !json.Valid([]byte(r.stdout)) {
					t.Errorf("%s: %s", args, r.stdout)
				}
			}
			eventually(t, "the log says why", func() bool { return strings.Contains(e.must("agent", "logs").stdout, tt.says) })
			loud := []string{"BASTION_QUIET=false"}
			r := e.run(loud, "url", "sessions")
			if r.code != 0 || !strings.Contains(r.stdout, f.Listen) || !strings.Contains(r.stderr, tt.says) {
				t.Errorf("url: exit code %d, %s%s", r.code, r.stdout, r.stderr)
			}
			for _, args := range []string{"forward -d cache:sessions :", "exec cache:sessions -- true", "wait sessions --timeout 100ms"} {
				code := tt.code
				if strings.HasPrefix(args, "wait") {
					code = 9
				}
				r := e.run(loud, strings.Fields(args)...)
				if r.code != code || !strings.Contains(r.stderr, tt.says) || strings.Contains(r.stderr, "allow more time") && tt.code != 9 {
					t.Errorf("%s: exit code %d, want %d\n%s", args, r.code, code, r.stderr)
				}
			}
			if err := e.SetAPIFaults(lab.APIFaults{}); err != nil {
				t.Fatal(err)
			}
			e.must("wait", "sessions")
			if got := e.state().Forwards[0]; got.State != api.ForwardReady || got.Error != "" || !got.Since.IsZero() {
				t.Errorf("with a path again: %+v", got)
			}
			if err := ping(f.Listen); err != nil {
				t.Error(err)
			}
		})
	}
}
