package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// Where AWS does not take a session document for a task, the other one is used, remembered, and shown. A setting forces one.
func TestSessionDocument(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		faults map[string]string
		env    []string
		want   string
		reason string
	}{
		"both work": {nil, nil, gateway.DocSSH, ""},
		"one is denied": {
			map[string]string{gateway.DocSSH: lab.RefuseDenied}, nil, gateway.DocPort, "AWS-StartSSHSession: AccessDeniedException: User: ",
		},
		"one is not known": {
			map[string]string{gateway.DocSSH: lab.RefuseInvalid}, nil, gateway.DocPort, "AWS-StartSSHSession: InvalidDocument: ",
		},
		"one never connects": {
			map[string]string{gateway.DocSSH: lab.OverSilent}, nil, gateway.DocPort, "AWS-StartSSHSession did not open in time",
		},
		"the other is denied": {map[string]string{gateway.DocPort: lab.RefuseDenied}, nil, gateway.DocSSH, ""},
		"forced": {
			nil, []string{"BASTION_SESSION_DOCUMENT=AWS-StartPortForwardingSession"}, gateway.DocPort, "the setting session_document",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startLab(t, nil)
			if err := e.SetAPIFaults(lab.APIFaults{Documents: tt.faults}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time it is remembered
				before := e.Calls()["ssm:StartSession"]
				p, f := e.forwards(append([]string{"BASTION_SESSIONS=1"}, tt.env...), "cache:sessions", ":")
				hold(t, f[0].Listen)
				for _, s := range e.Gateway().Sessions() {
					if s.Document != gateway.DocECSExec && !s.NoAgent && s.Document != tt.want {
						t.Errorf("a session by %s", s.Document)
					}
				}
				all := e.links(nil)
				if len(all) != 1 || all[0].Document != tt.want || !strings.HasPrefix(all[0].DocumentReason, tt.reason) ||
					tt.reason == "" && all[0].DocumentReason != "" {
					t.Errorf("status: %+v", all)
				}
				if r := e.must("status"); !strings.Contains(r.stdout, "\n  document: "+tt.want) ||
					!strings.Contains(r.stdout, "\n  bond: version 2\n") {
					t.Errorf("%s", r.stdout)
				}
				// At most two attempts, by two documents each.
				if calls := e.Calls()["ssm:StartSession"] - before; calls > 4 {
					t.Errorf("%d calls of StartSession", calls)
				}
				e.stop(p, syscall.SIGINT, 130)
				e.noSessions()
			}
			if tt.want == gateway.DocSSH {
				return
			}
			before := e.Calls()["ssm:StartSession"]
			p, f := e.forwards(append([]string{"BASTION_SESSIONS=1"}, tt.env...), "cache:sessions", ":")
			hold(t, f[0].Listen)
			if calls := e.Calls()["ssm:StartSession"] - before; calls != 1 {
				t.Errorf("%d calls of StartSession although the document is remembered", calls)
			}
			// The remembered document is wrong now.
			if tt.env == nil {
				if err := e.SetAPIFaults(lab.APIFaults{Documents: map[string]string{gateway.DocPort: lab.RefuseDenied}}); err != nil {
					t.Fatal(err)
				}
				e.endSessions()
				if err := ping(f[0].Listen); err != nil {
					t.Errorf("with the first document again: %v\n%s", err, p.Output())
				}
				if all := e.links(nil); len(all) != 1 || all[0].Document != gateway.DocSSH || all[0].DocumentReason != "" {
					t.Errorf("status: %+v", all)
				}
			}
			e.stop(p, syscall.SIGINT, 130)
		})
	}

	// If AWS denies both, the user reads its answer to the first.
	e := startLab(t, nil)
	if err := e.SetAPIFaults(lab.APIFaults{Documents: map[string]string{
		gateway.DocSSH: lab.RefuseDenied, gateway.DocPort: lab.RefuseDenied,
	}}); err != nil {
		t.Fatal(err)
	}
	r := e.run(nil, "forward", "--no-agent", "cache:sessions", ":")
	if r.code != 5 || !strings.Contains(r.stderr, "document/AWS-StartSSHSession") ||
		!strings.Contains(r.stderr, "hint: ask for the IAM permission ssm:StartSession") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}
