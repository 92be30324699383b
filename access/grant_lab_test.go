package access

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/lab"
)

// The user learns of every failure of the grant command in the container within the time that the settings allow, with the setting
// or the right to check. The client takes only bastiond's answer for an answer, and leaves no session behind.
func TestGrantCommandFails(t *testing.T) {
	l := startLab(t, func(c *lab.Config) { c.AllowHostExec = true })
	interrupted := errors.New("interrupted")
	for _, tt := range []struct {
		name    string
		command string // "": the default
		timeout time.Duration
		faults  lab.APIFaults
		stop    time.Duration // the caller gives up then; 0: it does not
		kind    fail.Kind
		is      error
		says    string // "": it works
	}{
		{name: "it works"},
		{name: "another program", command: "/bin/echo hello", kind: fail.Start, says: "answered: hello"},
		{name: "silence", command: "/bin/true", kind: fail.Start, says: "gave no answer"},
		{name: "a missing program", command: "/missing", kind: fail.Start, says: "/missing"},
		{name: "a right", faults: lab.APIFaults{Deny: []string{"ecs:ExecuteCommand"}}, kind: fail.Denied, says: "hand a key to"},
		{
			name: "no agent", timeout: time.Second, faults: lab.APIFaults{ExecSilent: true, NotConnected: -1}, kind: fail.Timeout,
			says: "has not connected within 1s",
		},
		{
			name: "interrupted", faults: lab.APIFaults{NotConnected: -1}, stop: 300 * time.Millisecond, is: interrupted, says: "interrupted",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var settings []string
			if tt.command != "" {
				settings = append(settings, "grant_command="+tt.command)
			}
			if tt.timeout > 0 {
				settings = append(settings, "start_timeout="+tt.timeout.String())
			}
			l.faults(tt.faults)
			a := l.access(Options{}, settings...)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if tt.stop > 0 {
				time.AfterFunc(tt.stop, func() { cancel(interrupted) })
			}
			up, err := a.Up(ctx)
			if tt.says == "" {
				if err != nil || !strings.HasPrefix(up.HostKey, "SHA256:") || up.Version == "" {
					t.Errorf("%+v, %v", up, err)
				}
				return
			}
			if err == nil || fail.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) || tt.is == nil && fail.NextOf(err) == "" ||
				tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v error %v, hint %q; want %v with %q", fail.KindOf(err), err, fail.NextOf(err), tt.kind, tt.says)
			}
			if err != nil && tt.command == "" && (strings.Contains(err.Error(), " v1.") || strings.Contains(err.Error(), " v2.")) {
				t.Errorf("the grant is in the error: %v", err)
			}
		})
	}
}

// An answer counts only for the grant that it names, and only with a usable host key and port. Another bastion's answer, or an old
// one that a terminal has kept, does not count.
func TestAcceptAnswer(t *testing.T) {
	signer, _ := newKey(t)
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	right := keys.GrantReply{
		Grant: "id", HostKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), Ports: keys.DefaultPorts, NotAfter: until,
	}
	for name, tt := range map[string]struct {
		change func(*keys.GrantReply)
		says   string
	}{
		"right":                {func(*keys.GrantReply) {}, ""},
		"of another grant":     {func(r *keys.GrantReply) { r.Grant = "other" }, `"other" instead of "id"`},
		"of no grant":          {func(r *keys.GrantReply) { r.Grant = "" }, `"" instead of "id"`},
		"without a key":        {func(r *keys.GrantReply) { r.HostKey = "" }, "key"},
		"with half a key":      {func(r *keys.GrantReply) { r.HostKey = r.HostKey[:30] }, "key"},
		"without a port":       {func(r *keys.GrantReply) { r.Ports.SSH = 0 }, "port 0"},
		"with an unusual port": {func(r *keys.GrantReply) { r.Ports.SSH = 65536 }, "port 65536"},
	} {
		a := testAccess(t, Settings{})
		reply := right
		tt.change(&reply)
		p := new(push)
		err := a.accept("op", bastions.Bastion{}, "id", reply, p)
		if (err == nil) != (tt.says == "") ||
			err != nil && (!strings.Contains(err.Error(), tt.says) || fail.KindOf(err) != fail.Start || fail.NextOf(err) == "") {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
		if (p.hostKey == nil) != (err != nil) || err == nil && !p.until.Equal(until) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// AWS does not document whose ECS Exec's sessions are. If they are nobody's, the policy for people lets no one end them: then a grant's
// session must end with its command. One that is left takes a place in the task until it is idle for too long.
func TestGrantSessionEndsWithItsCommand(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	if err := l.SetAPIFaults(lab.APIFaults{ExecOwnerless: true}); err != nil {
		t.Fatal(err)
	}
	a := l.access(Options{})
	if _, err := a.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the grant's session has ended", func() bool { return len(l.Gateway().Sessions()) == 0 })
	if calls := l.Calls(); calls["ecs:ExecuteCommand"] == 0 || calls["ssm:TerminateSession"] != 0 {
		t.Errorf("%v", calls)
	}
	for _, denied := range l.Ledger().Denied() {
		t.Errorf("%s on %s is denied", denied.Action, denied.Resource)
	}
}
