//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

var bin string // folder of the built commands

const parallel = 4 // tests at once

func TestMain(m *testing.M) {
	rig.DefaultSignals()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		log.Fatal(err)
	}
	bin = dir
	if err := rig.Build(context.Background(), bin); err != nil {
		log.Fatal(err)
	}
	// Tests that are parallel wait most of their time: the number of processors says nothing about how many may.
	if err := flag.Set("test.parallel", strconv.Itoa(parallel)); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		log.Print(err)
	}
	os.Exit(code)
}

// world is a lab, a far end that its bastions may reach, and the environment of a user.
type world struct {
	*lab.Lab
	t    *testing.T
	far  *rig.FarEnd
	home string // of the user, and of all that programs write for him
	env  []string
}

// newWorld returns a world whose commands do all by themselves; see newAgentWorld.
func newWorld(t *testing.T, change func(*lab.Config)) *world {
	t.Helper()
	far, err := rig.StartFarEnd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	cfg := lab.Config{
		Bastiond: filepath.Join(bin, "bastiond"), Postgres: lab.Off, Redis: lab.Off, NoWeb: true, Allow: []string{far.Addr()},
		StateDelay: 20 * time.Millisecond, ExecDelay: 20 * time.Millisecond, ConnectDelay: 50 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	l, err := lab.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	// A short path: sockets are made below it.
	home, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	env := append(l.Env(), "BASTION_NO_AGENT=true", "HOME="+home, "XDG_RUNTIME_DIR="+home, "XDG_CACHE_HOME="+home,
		"XDG_CONFIG_HOME="+home, "XDG_STATE_HOME="+home,
		"PATH="+strings.Join([]string{bin, filepath.Join(rig.Root(), "build", "tools"), os.Getenv("PATH")}, ":"))
	return &world{Lab: l, t: t, far: far, home: home, env: env}
}

// start starts a program as the world's user; it is ended with the test.
func (w *world) start(name string, args ...string) *rig.Proc {
	w.t.Helper()
	return w.startCmd(exec.Command(name, args...))
}

func (w *world) startCmd(cmd *exec.Cmd) *rig.Proc {
	w.t.Helper()
	p, err := rig.StartCmd(w.env, cmd)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if _, err := p.Stop(syscall.SIGKILL); err != nil {
			w.t.Error(err)
		}
	})
	return p
}

// run runs a program to its end, within limit, and returns its exit code and output.
func (w *world) run(limit time.Duration, name string, args ...string) (int, string) {
	w.t.Helper()
	p := w.start(name, args...)
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return code, p.Output()
}

func (w *world) bastion(args ...string) *rig.Proc {
	return w.start(filepath.Join(bin, "bastion"), args...)
}

// up starts the bastion and returns its task.
func (w *world) up() lab.Task {
	w.t.Helper()
	if code, out := w.run(30*time.Second, filepath.Join(bin, "bastion"), "up", "-q"); code != 0 {
		w.t.Fatalf("bastion up: exit code %d\n%s", code, out)
	}
	for _, task := range w.Tasks() {
		if task.LastStatus == "RUNNING" {
			return task
		}
	}
	w.t.Fatalf("no task is running: %+v", w.Tasks())
	panic("unreachable")
}

// forward starts `bastion forward` with specs, waits until it is ready, and returns its listeners' addresses in their order.
func (w *world) forward(specs ...string) (*rig.Proc, []string) {
	w.t.Helper()
	p := w.bastion(append([]string{"forward", "-o", "json"}, specs...)...)
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	line, err := p.Line(ctx, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	var ready struct {
		Forwards []struct{ Listen string }
	}
	if err := json.Unmarshal([]byte(line), &ready); err != nil {
		w.t.Fatalf("%v in %q", err, line)
	}
	addrs := make([]string, len(ready.Forwards))
	for i, f := range ready.Forwards {
		addrs[i] = f.Listen
	}
	return p, addrs
}

func (w *world) faults(f gateway.Faults) {
	w.t.Helper()
	if err := w.Gateway().SetFaults(f); err != nil {
		w.t.Fatal(err)
	}
}

// audit returns the bastion's audit events of one kind.
func (w *world) audit(task lab.Task, event string) []map[string]any {
	w.t.Helper()
	out, _, err := w.TaskOutput(task.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	var events []map[string]any
	for line := range strings.Lines(string(out)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatalf("audit line %q: %v", line, err)
		}
		if e["event"] == event {
			events = append(events, e)
		}
	}
	return events
}

func dial(ctx context.Context, t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := rig.Dial(ctx, addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eventually waits until ok holds.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	if !w.within(20*time.Second, ok) {
		w.t.Fatalf("never happened: %s", what)
	}
}

// within waits until ok holds, for limit, and says whether it does.
func (w *world) within(limit time.Duration, ok func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			return false
		}
	}
	return true
}

// interrupt ends a foreground command by Ctrl-C, and checks for its leftovers in AWS.
func (w *world) interrupt(p *rig.Proc) {
	w.t.Helper()
	if code, err := p.Stop(syscall.SIGINT); err != nil || code != 130 {
		w.t.Errorf("interrupted: exit code %d, %v\n%s", code, err, p.Output())
	}
	if left := w.Gateway().Sessions(); len(left) > 0 {
		w.t.Errorf("sessions left behind: %+v", left)
	}
}
