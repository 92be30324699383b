//go:build unix

package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// day is a day of one person with an agent, two profiles and a lab.
type day struct {
	*labEnv
	prod []string // environment of the second profile

	orders, cache, other api.Forward // detached: two of the first profile, one of the second
	attached             *rig.Proc
	web                  string     // where the attached forward listens
	pool                 []net.Conn // a GUI client's
	spoken               result     // of the step's command
}

// costs are what runs, and what AWS was asked from the morning on.
type costs struct {
	tasks    int // that run
	sessions int // of links, that are open
	launched int // tasks
	runTask  int // calls, at most: ECS answers some with a task that has ended, but none over a boundary of ten minutes
	exec     int // calls of ExecuteCommand
	start    int // sessions to ports that SSM has started
}

func (d *day) costs() costs {
	calls := d.Calls()
	return costs{
		d.alive(), d.agentSessions(), d.State().Launched, calls["ecs:RunTask"], calls["ecs:ExecuteCommand"],
		int(d.Gateway().Counters().Ports),
	}
}

// A day from the first command to the evening, and the morning after. For each step the test checks the running processes, the
// calls of AWS and the messages.
func TestDay(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	e.env = append(e.env, "BASTION_SESSIONS=1", "BASTION_QUIET=false", "BASTION_RECONNECT_MIN=100ms", "BASTION_RECONNECT_MAX=300ms")
	d := &day{labEnv: e, prod: e.as("prod", lab.IdentityConfig{})}
	for _, step := range []struct {
		name string
		do   func(*day)
		want costs
		gone int      // tasks that have ended: SSM may start another session to each before it knows
		code int      // of the step's command
		says []string // by it
	}{
		{
			"look before anything runs", func(d *day) { d.say(nil, "status") },
			costs{0, 0, 0, 0, 0, 0},
			0, 0,
			[]string{"no bastion of "},
		},
		{
			"the first forward, kept", func(d *day) { d.orders = d.keep(nil, "rds:orders") },
			costs{1, 1, 1, 1, 1, 1},
			0, 0, nil,
		},
		{
			"another one, by the same link", func(d *day) { d.cache = d.keep(nil, "cache:sessions") },
			costs{1, 1, 1, 1, 1, 1},
			0, 0, nil,
		},
		{
			"one in a terminal", (*day).attach,
			costs{1, 1, 1, 1, 1, 1},
			0, 0, nil,
		},
		{
			"a GUI client's pool", (*day).connect,
			costs{1, 1, 1, 1, 1, 1},
			0, 0, nil,
		},
		{
			"a command with a forward", func(d *day) {
				d.say(nil, "exec", "cache:sessions", "--", "sh", "-c", "echo at $REDIS_URL")
			},
			costs{1, 1, 1, 1, 1, 1},
			0, 0,
			[]string{"at redis"},
		},
		{
			"the second profile has a bastion of its own", func(d *day) { d.other = d.keep(d.prod, "cache:sessions") },
			costs{2, 2, 2, 2, 2, 2},
			0, 0, nil,
		},
		{
			"the laptop sleeps, and wakes", (*day).sleep,
			costs{2, 2, 2, 2, 2, 2},
			0, 0, nil,
		},
		{
			"the credentials expire", func(d *day) {
				d.expire()
				d.say(nil, "status")
			},
			costs{2, 2, 2, 2, 2, 2},
			0, 4,
			[]string{"sign in"},
		},
		{
			"and are renewed", func(d *day) {
				d.faults(lab.APIFaults{})
				d.say(nil, "status")
			},
			costs{2, 2, 2, 2, 2, 2},
			0, 0,
			[]string{"RUNNING"},
		},
		{
			"a task with connections is killed", (*day).kill,
			costs{2, 2, 3, 4, 3, 3},
			1, 0, nil,
		},
		{
			"in the evening the first profile's bastion is stopped", func(d *day) {
				d.disconnect()
				d.say(nil, "down")
				d.stopped(1)
			},
			costs{1, 1, 3, 4, 3, 3},
			2, 0,
			[]string{"is being stopped"},
		},
		{
			"and the second's", func(d *day) {
				d.say(d.prod, "down")
				d.stopped(0)
			},
			costs{0, 0, 3, 4, 3, 3},
			3, 0,
			[]string{"is being stopped"},
		},
		{
			"the terminal is closed", func(d *day) { d.stop(d.attached, syscall.SIGHUP, 129) },
			costs{0, 0, 3, 4, 3, 3},
			3, 0, nil,
		},
		{
			"the agent ends for the night", func(d *day) { d.say(nil, "agent", "stop") },
			costs{0, 0, 3, 4, 3, 3},
			3, 0, nil,
		},
		{
			"in the morning the forwards are there, and cost nothing", func(d *day) {
				d.must("agent", "start")
				d.say(nil, "ls")
				never(d.t, unwatched, "a task is started", func() bool { return d.alive() > 0 })
			},
			costs{0, 0, 3, 4, 3, 3},
			3, 0,
			[]string{"orders", "sessions"},
		},
		{
			"until the first connection", func(d *day) { d.ping(d.cache) },
			costs{1, 1, 4, 6, 4, 4},
			3, 0, nil,
		},
	} {
		d.spoken = result{}
		step.do(d)
		if d.spoken.code != step.code {
			t.Errorf("%s: exit code %d, want %d\n%s%s", step.name, d.spoken.code, step.code, d.spoken.stdout, d.spoken.stderr)
		}
		for _, text := range step.says {
			if !strings.Contains(d.spoken.stdout+d.spoken.stderr, text) {
				t.Errorf("%s: it does not say %q:\n%s%s", step.name, text, d.spoken.stdout, d.spoken.stderr)
			}
		}
		got := d.costs()
		if more := got.start - step.want.start; more > 0 && more <= step.gone {
			got.start = step.want.start
		}
		if got.launched <= got.runTask && got.runTask < step.want.runTask {
			got.runTask = step.want.runTask
		}
		if got != step.want {
			t.Errorf("%s: %+v\nwant %+v", step.name, got, step.want)
		}
	}
}

// say runs the step's command.
func (d *day) say(env []string, args ...string) {
	d.t.Helper()
	d.spoken = d.run(env, args...)
}

// keep opens a detached forward that works, at a port that nobody else takes by night.
func (d *day) keep(env []string, target string) api.Forward {
	d.t.Helper()
	old := d.env
	d.env = append(d.env[:len(d.env):len(d.env)], env...)
	f := d.detach(target, rig.FreeAddr(d.t))
	d.env = old
	return f
}

func (d *day) ping(f api.Forward) {
	d.t.Helper()
	if err := ping(f.Listen); err != nil {
		d.t.Errorf("%s: %v", f.Name, err)
	}
}

func (d *day) attach() {
	d.t.Helper()
	p, f := d.forwards(nil, "-L", "0:"+lab.WebHost+":80")
	d.attached, d.web = p, f[0].Listen
}

// connect opens as many connections as a pool does, closes half of them, and leaves the rest idle.
func (d *day) connect() {
	d.t.Helper()
	for range 10 {
		d.pool = append(d.pool, hold(d.t, d.cache.Listen))
	}
	for _, conn := range d.pool[5:] {
		_ = conn.Close()
	}
	d.pool = d.pool[:5]
}

// disconnect is the pool's end.
func (d *day) disconnect() {
	for _, conn := range d.pool {
		_ = conn.Close()
	}
	d.pool = nil
}

func (d *day) sleep() {
	d.t.Helper()
	agent, err := os.FindProcess(d.state().PID)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := agent.Signal(syscall.SIGSTOP); err != nil {
		d.t.Fatal(err)
	}
	d.Gateway().Cut("", "reset")
	if err := agent.Signal(syscall.SIGCONT); err != nil {
		d.t.Fatal(err)
	}
	d.alivePool()
	d.ping(d.other)
}

// alivePool fails unless all connections of the pool go on.
func (d *day) alivePool() {
	d.t.Helper()
	for i, conn := range d.pool {
		if err := pingOn(conn); err != nil {
			d.t.Errorf("connection %d of the pool: %v", i, err)
		}
	}
}

func (d *day) faults(f lab.APIFaults) {
	d.t.Helper()
	if err := d.SetAPIFaults(f); err != nil {
		d.t.Fatal(err)
	}
}

// expire has AWS refuse the credentials. Open connections go on, and new ones find their way.
func (d *day) expire() {
	d.t.Helper()
	d.faults(lab.APIFaults{Errors: map[string]lab.APIError{"*": {
		Code: "ExpiredTokenException", Message: "The security token included in the request is expired",
	}}})
	d.alivePool()
	d.ping(d.cache)
}

// kill ends the first profile's task as a crash does. The pool's connections end; the client's next ones have another task.
func (d *day) kill() {
	d.t.Helper()
	if err := d.KillTask(d.Tasks()[0].ID); err != nil {
		d.t.Fatal(err)
	}
	for i, conn := range d.pool {
		if err := pingOn(conn); err == nil {
			d.t.Errorf("connection %d of the pool outlives its task", i)
		}
	}
	d.disconnect()
	d.pool = []net.Conn{hold(d.t, d.cache.Listen)}
	eventually(d.t, "the terminal says that there is another link", func() bool {
		return strings.Contains(d.attached.Output(), `"event":"link_restored"`)
	})
}

// stopped waits until so many tasks are left, and makes sure that it stays so.
func (d *day) stopped(left int) {
	d.t.Helper()
	eventuallyWithin(d.t, time.Minute, fmt.Sprintf("%d tasks run", left), func() bool {
		return d.alive() == left && d.agentSessions() == left
	})
	never(d.t, unwatched, "a task is started", func() bool { return d.alive() != left })
}
