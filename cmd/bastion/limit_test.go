package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// agentSessions returns how many sessions to ports an agent serves.
func (e *labEnv) agentSessions() (n int) {
	for _, s := range e.Gateway().Sessions() {
		if s.Document != gateway.DocECSExec && !s.NoAgent {
			n++
		}
	}
	return n
}

// AWS may limit a container's sessions, those of ECS Exec included. The link then works with the sessions that it gets, reports
// that on request, and rarely asks for more.
func TestSessionLimit(t *testing.T) {
	t.Parallel()
	for _, over := range []string{"", lab.OverSilent} {
		for _, limit := range []int{1, 2, 10} {
			t.Run(fmt.Sprintf("%d %s", limit, over), func(t *testing.T) {
				t.Parallel()
				// The limit ends the growth: neither the task's processor, nor that of this machine where others use it.
				e := startLab(t, func(c *lab.Config) { c.Unmetered = true })
				if err := e.Gateway().SetFaults(gateway.Faults{RateBps: 64 << 10}); err != nil {
					t.Fatal(err)
				}
				source := endless(t)
				e.Allow(source)
				if err := e.SetAPIFaults(lab.APIFaults{SessionsPerContainer: limit, SessionsOver: over}); err != nil {
					t.Fatal(err)
				}
				p, f := e.forwards([]string{"BASTION_SESSIONS=16", "BASTION_CONNECT_TIMEOUT=60s"}, source, ":")
				download(t, f[0].Listen)
				most := 0 // those that do not help are given back
				eventuallyWithin(t, 90*time.Second, "as many sessions as AWS starts, and status says so", func() bool {
					most = max(most, e.agentSessions())
					all := e.links(nil)
					return len(all) == 1 && all[0].Limit != nil && all[0].Limit.Sessions == limit && all[0].Limit.Reason != "" &&
						most == limit
				})
				if r := e.must("status"); !strings.Contains(r.stdout, fmt.Sprintf("  AWS starts no more than %d session", limit)) {
					t.Errorf("status does not say it:\n%s", r.stdout)
				}
				if over == "" {
					// The next attempt is seconds away, and the one after that minutes.
					eventuallyWithin(t, 90*time.Second, "the next attempt is minutes away", func() bool {
						l := e.links(nil)[0].Limit
						return l != nil && l.Retry != nil && time.Until(*l.Retry) > time.Minute
					})
				}
				if calls := e.Calls()["ssm:StartSession"]; calls > limit+12 {
					t.Errorf("%d calls of StartSession", calls)
				}
				if out := p.Output(); strings.Contains(out, "no path") || strings.Contains(out, "lost") {
					t.Errorf("the user was told:\n%s", out)
				}
				e.stop(p, syscall.SIGINT, 130)
				e.noSessions()
			})
		}
	}
}

// ECS Exec renews a grant, and its session needs a place as well. The link gives it one of its own, and takes it back.
func TestGrantRenewedAtTheSessionLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			e := startLab(t, nil)
			if err := e.SetAPIFaults(lab.APIFaults{SessionsPerContainer: limit}); err != nil {
				t.Fatal(err)
			}
			p, f := e.forwards([]string{"BASTION_GRANT_LIFETIME=1m", "BASTION_LINGER=1m"}, "cache:sessions", ":")
			held := hold(t, f[0].Listen)
			grants := func() int {
				audit, _, err := e.TaskOutput(e.Tasks()[0].ID)
				if err != nil {
					t.Fatal(err)
				}
				return strings.Count(string(audit), `"event":"grant"`)
			}
			had := grants()
			deadline := time.Now().Add(100 * time.Second)
			for grants() < had+2 && time.Now().Before(deadline) {
				if err := pingOn(held); err != nil {
					t.Fatalf("%v\n%s", err, p.Output())
				}
				<-time.After(200 * time.Millisecond)
			}
			if n := grants() - had; n < 2 {
				t.Errorf("%d renewals; refused at the limit?\n%s", n, p.Output())
			}
			eventuallyWithin(t, 90*time.Second, "the place is taken back", func() bool { return e.agentSessions() == limit })
			if err := pingOn(held); err != nil {
				t.Errorf("%v\n%s", err, p.Output())
			}
			if out := p.Output(); strings.Contains(out, "no path") || strings.Contains(out, "lost") {
				t.Errorf("the user was told:\n%s", out)
			}
			e.stop(p, syscall.SIGINT, 130)
			e.noSessions()
		})
	}
}

// Whatever kept AWS from starting sessions, a link without any is back with the first call after it, which is seconds away. Until
// then it asks no more than once a second.
func TestPathIsBackSoon(t *testing.T) {
	t.Parallel()
	startSession := func(code, message string, status int) lab.APIFaults {
		return lab.APIFaults{Errors: map[string]lab.APIError{"ssm:StartSession": {Code: code, Message: message, Status: status}}}
	}
	for name, fault := range map[string]lab.APIFaults{
		"throttled":       {Throttle: map[string]int{"ssm:StartSession": -1}},
		"fails":           startSession("ServiceUnavailable", "", 503),
		"not connected":   {NotConnected: -1},
		"does not answer": {LatencyMS: 600_000},
		"no agent comes": {Documents: map[string]string{
			gateway.DocSSH: lab.OverSilent, gateway.DocPort: lab.OverSilent, // whichever it uses
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startLab(t, nil)
			p, f := e.forwards([]string{"BASTION_SESSIONS=2"}, "cache:sessions", ":")
			held := hold(t, f[0].Listen)
			calls := func() int { return e.Calls()["ssm:StartSession"] }
			if err := e.SetAPIFaults(fault); err != nil {
				t.Fatal(err)
			}
			before, began := calls(), time.Now()
			e.endSessions()
			eventuallyWithin(t, 90*time.Second, "several calls", func() bool { return calls() >= before+7 })
			if asked, most := calls()-before, 6+int(time.Since(began).Seconds()); asked > most {
				t.Errorf("%d calls in %v", asked, time.Since(began))
			}
			before, began = calls(), time.Now()
			if err := e.SetAPIFaults(lab.APIFaults{}); err != nil {
				t.Fatal(err)
			}
			if err := pingOn(held); err != nil {
				t.Fatalf("%v\n%s", err, p.Output())
			}
			// One call each 2 s: a loaded machine may need a few for the first that succeeds.
			if asked := calls() - before; asked > 6 {
				t.Errorf("the connection goes on after %d calls and %v", asked, time.Since(began))
			}
			e.stop(p, syscall.SIGINT, 130)
		})
	}
}

// With a remembered host key the session and the grant's begin at the same time, and one of them gets the only place.
func TestRememberedHostKeyAtTheSessionLimit(t *testing.T) {
	t.Parallel()
	for _, over := range []string{"", lab.OverSilent} {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			e := startLab(t, nil)
			e.must("up", "-q") // hands a grant over, and remembers the host key
			if err := e.SetAPIFaults(lab.APIFaults{SessionsPerContainer: 1, SessionsOver: over}); err != nil {
				t.Fatal(err)
			}
			p, f := e.forwards([]string{"BASTION_CONNECT_TIMEOUT=60s"}, "cache:sessions", ":")
			eventuallyWithin(t, 90*time.Second, "a connection", func() bool { return ping(f[0].Listen) == nil })
			if out := p.Output(); strings.Contains(out, "refused") {
				t.Errorf("%s", out)
			}
			e.stop(p, syscall.SIGINT, 130)
			e.noSessions()
		})
	}
}
