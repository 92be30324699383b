//go:build unix

package main

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// unwatched is how long nothing must be started for. It is several times the longest wait between two attempts, and what a task
// takes to be started.
const unwatched = 2 * time.Second

// runTasks returns how often AWS was asked to start a task. More than one call may be for one task: within ten minutes ECS answers
// the first with the task that has ended.
func (e *labEnv) runTasks() int { return e.Calls()["ecs:RunTask"] }

// alive returns how many tasks are not stopped.
func (e *labEnv) alive() (n int) {
	for _, task := range e.Tasks() {
		if task.LastStatus != "STOPPED" {
			n++
		}
	}
	return n
}

// stopByHand stops the tasks by a call of ECS, as an administrator does.
func (e *labEnv) stopByHand() {
	e.t.Helper()
	client := ecs.NewFromConfig(e.awsConfig(e.Env()))
	for _, task := range e.Tasks() {
		if task.LastStatus == "STOPPED" {
			continue
		}
		_, err := client.StopTask(e.t.Context(), &ecs.StopTaskInput{
			Cluster: aws.String(task.Cluster), Task: aws.String(task.ARN), Reason: aws.String("too expensive"),
		})
		if err != nil {
			e.t.Fatal(err)
		}
	}
}

// The rows have who stopped the bastion, who uses the link, and which command opened it. They give the number of started tasks
// until all is quiet, and the messages; the next connection starts another task.
func TestBastionStoppedOnPurpose(t *testing.T) {
	t.Parallel()
	type ending struct {
		name string
		env  map[string]string // of the task
		do   func(*labEnv)
		why  string // is said to a forward in the foreground
	}
	kill := func(e *labEnv) {
		if err := e.KillTask(e.Tasks()[0].ID); err != nil {
			e.t.Fatal(err)
		}
	}
	down := ending{"down", nil, func(e *labEnv) { e.must("down") }, "the task was stopped by bastion down"}
	byHand := ending{"administrator", nil, (*labEnv).stopByHand, "the task has stopped: too expensive"}
	life := ending{
		"maximum life", map[string]string{"BASTIOND_MAX_LIFE": "5s", "BASTIOND_DRAIN": "1s"}, func(*labEnv) {}, "at the end of its maximum life",
	}
	idle := ending{"idle", map[string]string{"BASTIOND_IDLE_STOP": "1s"}, func(*labEnv) {}, ""} // after the link
	crash := ending{"crash", nil, kill, "the task has stopped: Essential container in task exited"}
	for _, tt := range []struct {
		ending
		how  string // agent, attached (by the agent), alone or exec
		held bool   // a connection is held through the link
		runs int    // tasks that are started until the next connection
	}{
		{down, "agent", false, 1},
		{down, "attached", false, 1},
		{down, "alone", false, 1},
		{down, "exec", false, 1},
		{down, "agent", true, 1},
		{down, "attached", true, 1},
		{down, "alone", true, 1},
		{byHand, "agent", false, 1},
		{byHand, "alone", false, 1},
		{byHand, "attached", true, 2},
		{idle, "agent", false, 1},
		{life, "agent", false, 1},
		{life, "alone", false, 1},
		{life, "alone", true, 1},
		{crash, "agent", false, 1},
		{crash, "alone", false, 1},
		{crash, "attached", true, 2},
	} {
		name := tt.name + ", " + tt.how
		if tt.held {
			name += ", held"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startAgentLab(t, func(c *lab.Config) { c.TaskEnv = tt.env })
			e.env = append(e.env, "BASTION_RECONNECT_MIN=100ms", "BASTION_RECONNECT_MAX=300ms", "BASTION_QUIET=false")
			if tt.name == idle.name {
				e.env = append(e.env, "BASTION_AGENT_IDLE=1s")
			}
			var said *rig.Proc
			var addr string
			switch tt.how {
			case "agent":
				addr = e.detach("cache:sessions", ":").Listen
			case "exec":
				e.must("exec", "cache:sessions", "--", "true")
			default:
				env := []string{"BASTION_NO_AGENT=" + map[bool]string{true: "true", false: "false"}[tt.how == "alone"]}
				p, f := e.forwards(env, "cache:sessions", ":")
				said, addr = p, f[0].Listen
			}
			var held net.Conn
			if tt.held {
				held = hold(t, addr)
			}
			tt.do(e)
			eventuallyWithin(t, time.Minute, "the first task stops", func() bool { return e.Tasks()[0].LastStatus == "STOPPED" })
			if tt.runs > 1 {
				eventuallyWithin(t, time.Minute, "another task is started", func() bool { return e.State().Launched == 2 })
			} else {
				never(t, unwatched, "another task is started", func() bool { return e.runTasks() > 1 || e.alive() > 0 })
			}
			if held != nil {
				if err := pingOn(held); err == nil {
					t.Error("the connection to the stopped task goes on")
				}
			}
			if said != nil && tt.runs == 1 {
				for _, want := range []string{
					tt.why, "nothing is started now: the next connection starts another one", `"event":"link_idle"`,
				} {
					eventually(t, "it is said: "+want, func() bool { return strings.Contains(said.Output(), want) })
				}
				if tt.held {
					eventually(t, "the cut connection is told", func() bool {
						return strings.Contains(said.Output(), ":6379: the link to the bastion was lost")
					})
				}
			}
			if addr == "" {
				addr = e.detach("cache:sessions", ":").Listen
			}
			if err := ping(addr); err != nil {
				t.Errorf("the next connection: %v", err)
			}
			if n := e.State().Launched; n != 2 {
				t.Errorf("%d tasks were started in all, want 2", n)
			}
			if said == nil {
				return
			}
			if tt.runs == 1 {
				for _, want := range []string{"a connection needs the bastion", `"event":"link_wanted"`, `"event":"link_restored"`} {
					eventually(t, "it is said: "+want, func() bool { return strings.Contains(said.Output(), want) })
				}
			}
			if _, err := said.Stop(syscall.SIGINT); err != nil {
				t.Error(err)
			}
		})
	}
}

// never polls for d, and fails as soon as ok holds.
func never(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok() {
			t.Fatalf("happened: %s", what)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
