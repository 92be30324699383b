//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// The scripts read as a manual of the main flows: the commands, their output, the running processes and the cost afterwards. Each
// has a lab of its own, with the database orders and the cache sessions, and an agent that is started by the first command.
func TestFlows(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"psql", "redis-cli", "ssh"} {
		rig.Need(t, program)
	}
	scripts, err := filepath.Glob("testdata/flows/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range scripts {
		// The lab must outlive the script's agent, so it belongs to a test around the script's.
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			e := startAgentLab(t, nil)
			testscript.Run(t, testscript.Params{
				Files: []string{script},
				Setup: func(env *testscript.Env) error {
					env.Vars = append(append(env.Vars, e.env...), "GORACE="+os.Getenv("GORACE"))
					env.Values["lab"] = e
					return nil
				},
				Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
					"exits": exits, "keep": keep, "tasks": tasks, "started": started, "drop": drop, "forwards": openForwards,
				},
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
			})
		})
	}
}

// keep puts the last command's output, without space around it, into a variable: keep NAME
func keep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: keep NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// tasks waits until this many bastion tasks run, which cost money: tasks NUMBER
func tasks(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tasks NUMBER")
	}
	count(ts, args[0], "tasks that run", ts.Value("lab").(*labEnv).alive)
}

// started compares how many tasks were started since the lab's start: started NUMBER
func started(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: started NUMBER")
	}
	count(ts, args[0], "tasks were started", func() int { return len(ts.Value("lab").(*labEnv).Tasks()) })
}

// openForwards waits until this many forwards are open: the agent notices a little later that a command has ended. forwards NUMBER
func openForwards(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: forwards NUMBER")
	}
	count(ts, args[0], "forwards", func() int { return len(ts.Value("lab").(*labEnv).state().Forwards) })
}

// drop kills the agent, as a crash or a reboot would: drop
func drop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: drop")
	}
	e := ts.Value("lab").(*labEnv)
	agent, err := os.FindProcess(e.state().PID)
	ts.Check(err)
	ts.Check(agent.Kill())
	e.killed = true
}

// count waits until there are as many as the text says.
func count(ts *testscript.TestScript, text, what string, have func() int) {
	want, err := strconv.Atoi(text)
	ts.Check(err)
	late := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for have() != want {
		if <-tick.C; time.Now().After(late) {
			ts.Fatalf("%d %s, want %d", have(), what, want)
		}
	}
}
