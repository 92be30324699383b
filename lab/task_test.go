package lab

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/lab/gateway"
)

// fakeContainer is a container without a process: for the state machine's own clock.
type fakeContainer struct {
	done       chan struct{}
	code       int
	terminated func(*fakeContainer)
}

func (c *fakeContainer) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("no network")
}

func (c *fakeContainer) Exec(context.Context, []string) (gateway.Process, error) {
	return nil, errors.New("no programs")
}

func (c *fakeContainer) Terminate() {
	if c.terminated != nil {
		c.terminated(c)
	}
}

func (c *fakeContainer) Kill()                 { c.end(137) }
func (c *fakeContainer) Done() <-chan struct{} { return c.done }
func (c *fakeContainer) ExitCode() int         { return c.code }
func (c *fakeContainer) PID() int              { return 1 }

func (c *fakeContainer) end(code int) {
	c.code = code
	close(c.done)
}

type fakeRunner struct{ container *fakeContainer }

func (r fakeRunner) Start(context.Context, ContainerSpec) (Container, error) { return r.container, nil }

// clockwork starts one task in a bubble, whose states last 10 s, whose exec agent runs after 5 s and answers after
// another 3 s.
func clockwork(t *testing.T, c *fakeContainer) (*ecs, *task) {
	ctx, cancel := context.WithCancel(context.Background())
	gw := gateway.New(gateway.Config{})
	network := &ec2{subnets: []Subnet{{ID: "subnet-1", CIDR: "10.99.1.0/24"}}}
	s, p := newTestStack(t, Config{})
	e := &ecs{
		site: s.site, stack: s, permissions: p,
		unmetered: true, // hours go by
		log:       slog.New(slog.DiscardHandler), now: time.Now, runner: fakeRunner{c}, dir: t.TempDir(), network: network,
		timing:   timing{state: 10 * time.Second, agent: 5 * time.Second, connect: 3 * time.Second, grace: 30 * time.Second},
		sessions: &sessions{gw: gw, now: time.Now, faults: &faults{now: time.Now}}, faults: &faults{now: time.Now}, ctx: ctx,
		url:      func() string { return "http://127.0.0.1" },
		clusters: map[string]*clusterState{}, defs: map[string][]*TaskDefinition{}, tokens: map[string]runToken{},
	}
	t.Cleanup(func() {
		cancel()
		e.close()
		if err := gw.Close(); err != nil {
			t.Error(err)
		}
	})
	e.addCluster("c", clusterState{})
	e.addDefinition(TaskDefinition{Family: "f"})
	in := &runTaskInput{EnableExecuteCommand: true, NetworkConfiguration: &ecsNetworkConfiguration{}}
	in.NetworkConfiguration.AwsvpcConfiguration = &struct {
		Subnets        []string `json:"subnets"`
		SecurityGroups []string `json:"securityGroups,omitempty"`
		AssignPublicIP string   `json:"assignPublicIp,omitempty"`
	}{Subnets: []string{"subnet-1"}}
	tasks, err := e.launch("c", e.definition("f"), in, 1)
	if err != nil {
		t.Fatal(err)
	}
	return e, tasks[0]
}

// after advances the clock and checks what DescribeTasks says then.
func after(t *testing.T, e *ecs, tk *task, d time.Duration, status, agent string, connected bool) {
	t.Helper()
	time.Sleep(d) //nolint:forbidigo // the bubble's clock
	synctest.Wait()
	v := e.views([]*task{tk}, false)[0]
	gotAgent := v.Containers[0].ManagedAgents[0].LastStatus
	gotConnected := e.execReady(tk) == nil
	if v.LastStatus != status || gotAgent != agent || gotConnected != connected {
		t.Errorf("%s, agent %s, connected %v; want %s, %s, %v", v.LastStatus, gotAgent, gotConnected, status, agent,
			connected)
	}
}

func TestTaskStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeContainer{done: make(chan struct{})}
		e, tk := clockwork(t, c)
		const s = time.Second
		after(t, e, tk, 9*s, "PROVISIONING", "PENDING", false)
		after(t, e, tk, 2*s, "PENDING", "PENDING", false)
		after(t, e, tk, 10*s, "ACTIVATING", "PENDING", false)
		after(t, e, tk, 10*s, "RUNNING", "PENDING", false)
		after(t, e, tk, 5*s, "RUNNING", "RUNNING", false)
		after(t, e, tk, 3*s, "RUNNING", "RUNNING", true)
		// The program takes its time to end, but not for ever.
		e.requestStop(tk, stopUser, "enough")
		after(t, e, tk, 29*s, "STOPPING", "RUNNING", false)
		after(t, e, tk, 2*s, "DEPROVISIONING", "STOPPED", false)
		after(t, e, tk, 10*s, "STOPPED", "STOPPED", false)
		v := e.views([]*task{tk}, false)[0]
		if v.StopCode != stopUser || v.StoppedReason != "enough" || *v.Containers[0].ExitCode != 137 {
			t.Errorf("stopped by %s, %q, exit code %d", v.StopCode, v.StoppedReason, *v.Containers[0].ExitCode)
		}
	})
}

func TestTaskStopsBeforeItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, tk := clockwork(t, &fakeContainer{done: make(chan struct{})})
		after(t, e, tk, 11*time.Second, "PENDING", "PENDING", false)
		e.requestStop(tk, stopUser, "changed my mind")
		e.requestStop(tk, stopUser, "again")
		after(t, e, tk, 0, "DEPROVISIONING", "STOPPED", false)
		after(t, e, tk, 10*time.Second, "STOPPED", "STOPPED", false)
		v := e.views([]*task{tk}, false)[0]
		if v.StoppedReason != "changed my mind" || v.Containers[0].ExitCode != nil || v.StartedAt != nil {
			t.Errorf("%q, exit code %v, started %v", v.StoppedReason, v.Containers[0].ExitCode, v.StartedAt)
		}
	})
}

func TestTaskProgramEndsWhileActivating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeContainer{done: make(chan struct{})}
		e, tk := clockwork(t, c)
		after(t, e, tk, 21*time.Second, "ACTIVATING", "PENDING", false)
		c.end(2)
		after(t, e, tk, 11*time.Second, "STOPPED", "STOPPED", false)
		if v := e.views([]*task{tk}, false)[0]; v.StopCode != stopEssentialExited || *v.Containers[0].ExitCode != 2 {
			t.Errorf("stopped by %s, exit code %d", v.StopCode, *v.Containers[0].ExitCode)
		}
	})
}

func TestExecAgentFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults APIFaults
		agent  string
	}{
		{"never starts", APIFaults{NoExecAgent: true}, "PENDING"},
		{"never answers", APIFaults{ExecSilent: true}, "RUNNING"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, tk := clockwork(t, &fakeContainer{done: make(chan struct{}), terminated: func(c *fakeContainer) { c.end(0) }})
				e.faults.replace(tt.faults)
				after(t, e, tk, time.Hour, "RUNNING", tt.agent, false)
			})
		})
	}
}

func TestNotConnectedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, tk := clockwork(t, &fakeContainer{done: make(chan struct{}), terminated: func(c *fakeContainer) { c.end(0) }})
		after(t, e, tk, time.Hour, "RUNNING", "RUNNING", true)
		e.faults.replace(APIFaults{NotConnectedMS: 1500})
		after(t, e, tk, 1400*time.Millisecond, "RUNNING", "RUNNING", false)
		after(t, e, tk, 100*time.Millisecond, "RUNNING", "RUNNING", true)
	})
}

func TestCloseKillsWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeContainer{done: make(chan struct{})}
		e, tk := clockwork(t, c)
		after(t, e, tk, time.Hour, "RUNNING", "RUNNING", true)
		began := time.Now()
		t.Cleanup(func() {
			if d := time.Since(began); d > 2*closeGrace {
				t.Errorf("the lab took %v to close", d)
			}
		})
	})
}

func TestForgetsOldTasks(t *testing.T) {
	e := &ecs{}
	for i := range maxTasks + 10 {
		last := statusStopped
		if i%2 == 0 {
			last = statusRunning
		}
		e.tasks = append(e.tasks, &task{id: randomHex(32), last: last})
	}
	first, running := e.tasks[0], e.tasks[1]
	e.forget()
	if len(e.tasks) != maxTasks || e.tasks[0] != first || e.tasks[1] == running {
		t.Errorf("%d tasks, the first two are %s and %s", len(e.tasks), e.tasks[0].last, e.tasks[1].last)
	}
}
