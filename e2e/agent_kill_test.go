//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// killSeed is where the moments of the killing come from; 0: the clock.
var killSeed = flag.Uint64("kill-seed", 0, "seed of the moments at which TestKill kills")

const (
	kills       = 20
	exitLost    = 8                      // of a command whose connection is lost
	killSpread  = 700 * time.Millisecond // the moments are within this time of the last recovery
	killRecover = 20 * time.Second       // for all to be well again; the machine may be slow
)

// Each process is killed at random moments, under load. What it leaves behind holds no port and costs nothing, and the next
// command works.
func TestKill(t *testing.T) {
	for _, test := range []struct {
		name string
		kill func(*killed)
		env  map[string]string // of bastiond
	}{
		{"the command", (*killed).commands, nil},
		// Shorter than the usual half hour.
		{"the agent", (*killed).agents, map[string]string{"BASTIOND_BOND_LINGER": "5s", "BASTIOND_IDLE_STOP": "8s"}},
		{"bastiond", (*killed).bastionds, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.kill(newKilled(t, test.env))
		})
	}
}

// killed is a world under load, in which processes are killed.
type killed struct {
	*world
	rng  *rand.Rand
	kept api.Forward // a detached forward to the far end
	load *load
}

func newKilled(t *testing.T, bastiond map[string]string) *killed {
	t.Helper()
	seed := *killSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to have the same moments again: -kill-seed %d", seed)
	w := newAgentWorld(t, func(c *lab.Config) { c.TaskEnv = bastiond })
	// Bastions that end soon after they were reached would be tried again more and more seldom.
	w.env = append(w.env, "BASTION_RECONNECT_MIN=100ms", "BASTION_RECONNECT_MAX=1s")
	port, err := rig.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	k := &killed{world: w, rng: rand.New(rand.NewPCG(seed, 0))}
	k.kept = w.detach("--name", "kept", w.far.Addr(), strconv.Itoa(port))[0]
	k.load = startLoad(k.kept.Listen)
	t.Cleanup(func() {
		if err := k.load.end(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// moment lets a random time pass.
func (k *killed) moment() {
	timer := time.NewTimer(time.Duration(k.rng.Int64N(int64(killSpread))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-k.t.Context().Done():
	}
}

// commands kills what users run, from its start on. The agent notices: it ends what it had for the command, and nothing else.
func (k *killed) commands() {
	far, path := k.far.Addr(), filepath.Join(bin, "bastion")
	host, port := "127.0.0.1", strconv.Itoa(k.far.Port())
	agent := k.agentState().PID
	ready := 0
	for i := range kills {
		flavors := [][]string{
			{"forward", "-o", "json", far, ":", far, ":"},
			{"proxy", host, port},
			{"socks", "-o", "json", ":"},
			{"exec", far, ":", "--", "sleep", "60"},
			{"forward", "--no-agent", "-o", "json", far, ":"},
		}
		args := flavors[i%len(flavors)]
		cmd := exec.Command(path, args...)
		stdin, err := cmd.StdinPipe() // whose end would end a proxy
		if err != nil {
			k.t.Fatal(err)
		}
		p := k.startCmd(cmd)
		if _, err := stdin.Write([]byte("e")); err != nil {
			k.t.Error(err)
		}
		k.moment()
		if err := p.Signal(syscall.SIGKILL); err != nil {
			k.t.Fatalf("bastion %s: %v\n%s", args[0], err, p.Output())
		}
		<-p.Ended()
		_ = stdin.Close()
		addrs := listenersIn(p.Stdout())
		ready += len(addrs)
		what := fmt.Sprintf("kill %d, bastion %s", i+1, args[0])
		k.eventually(what+": its listeners are gone", func() bool {
			for _, addr := range addrs {
				if listening(k.t, addr) {
					return false
				}
			}
			return len(k.agentState().Forwards) == 1
		})
		st := k.agentState()
		if st.PID != agent || st.Forwards[0].Name != "kept" || st.Forwards[0].State != api.ForwardReady {
			k.t.Fatalf("%s: the agent is %+v\n%s", what, st, k.agentLog())
		}
	}
	if ready == 0 {
		k.t.Error("every command was killed before it had a listener")
	}
	if failed := k.load.failures(); failed > 0 {
		k.t.Errorf("%d transfers through another forward have failed meanwhile: %v", failed, k.load.why())
	}
	k.settled()
	k.eventually("the connections to the far end have ended", func() bool { return k.far.Conns() == 0 })
}

// agents kills the agent, from the start of the command that starts it on. Its listeners go with it, nobody waits for it, and the
// next command has all that is to stay.
func (k *killed) agents() {
	path, far := filepath.Join(bin, "bastion"), k.far.Addr()
	task := k.running()[0].ID
	attached, done := 0, 0
	for tries := 0; done < kills && tries < 3*kills; tries++ {
		// What starts the agent is under way, or done, when the agent is killed.
		p := k.start(path, "forward", "-o", "json", far, ":")
		k.moment()
		pid := k.agentPID()
		if pid != 0 {
			done++
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				k.t.Fatal(err)
			}
			k.eventually("the agent ends", func() bool { return gone(pid) })
		}
		addrs := listenersIn(p.Stdout())
		attached += len(addrs)
		what := fmt.Sprintf("kill %d, of process %d", done, pid)
		for _, addr := range addrs {
			k.eventually(what+": nobody listens at "+addr, func() bool { return !listening(k.t, addr) })
		}
		// A command that had its forward ends with it; one that had not may have started another agent.
		if len(addrs) > 0 {
			code, err := k.ends(p)
			if err != nil || code != exitLost {
				k.t.Errorf("%s: bastion forward: exit code %d, %v\n%s", what, code, err, p.Output())
			}
		} else if _, err := p.Stop(syscall.SIGINT); err != nil {
			k.t.Errorf("%s: %v", what, err)
		}
		if code, out := k.run(time.Minute, path, "agent", "start"); code != 0 {
			k.t.Fatalf("%s: bastion agent start: exit code %d\n%s\n%s", what, code, out, k.agentLog())
		}
		k.eventually(what+": the detached forward is back", func() bool {
			ctx, cancel := context.WithTimeout(k.t.Context(), killRecover)
			defer cancel()
			return listening(k.t, k.kept.Listen) && echo(ctx, k.kept.Listen) == nil
		})
		k.oneTask(what, task)
	}
	if done < kills {
		k.t.Errorf("there was an agent to kill %d times only", done)
	}
	if attached == 0 {
		k.t.Error("the agent was always killed before the command had its forward")
	}
	k.t.Logf("left over in the lab: %d sessions, %d of them without a client", len(k.Gateway().Sessions()), k.abandoned())

	// The last one has no successor. Its leftovers in AWS end by themselves. First the lingering bonds end, with the connections
	// behind the bastion. When the task has had no client for a while, it ends too, with the sessions to it.
	if err := syscall.Kill(k.agentPID(), syscall.SIGKILL); err != nil {
		k.t.Fatal(err)
	}
	begun := time.Now()
	for _, end := range []struct {
		of   string
		seen func() bool
	}{
		{"the connections to the far end", func() bool { return k.far.Conns() == 0 }},
		{"the task", func() bool { return len(k.running()) == 0 }},
		{"the sessions", func() bool { return len(k.Gateway().Sessions()) == 0 }},
	} {
		if !k.within(3*killRecover, end.seen) {
			k.t.Fatalf("%s did not end after the last kill: %+v", end.of, k.State())
		}
		k.t.Logf("%s had ended %v after the last kill", end.of, time.Since(begun).Round(time.Millisecond))
	}
	k.loaded()
	k.t.Logf("files that are left over: %q", k.files())

	// The next command starts an agent that opens the forward, and a bastion for it. Commands that look at the links remove the
	// dead agent's leftovers.
	ctx, cancel := context.WithTimeout(k.t.Context(), killRecover)
	defer cancel()
	for _, args := range [][]string{{"agent", "start"}, {"status"}} {
		if code, out := k.run(time.Minute, path, args...); code != 0 {
			k.t.Errorf("bastion %q after the last kill: exit code %d\n%s", args, code, out)
		}
	}
	if err := echo(ctx, k.kept.Listen); err != nil {
		k.t.Errorf("the detached forward after the last kill: %v\n%s", err, k.agentLog())
	}
	if n := len(k.running()); n != 1 {
		k.t.Errorf("%d tasks run", n)
	}
	if left := k.files(); len(left) > maxFiles {
		k.t.Errorf("files that are left over: %q", left)
	}
}

// maxFiles is the number of files of a user whose agent has a link. They are the socket and its lock, the socket that shows the
// link, two logs, the detached forwards, and the host keys of two tasks.
const maxFiles = 8

// files returns the files in the user's directories, without half-written ones of a killed agent. Those go when the file is next
// written.
func (k *killed) files() (files []string) {
	k.t.Helper()
	if err := filepath.WalkDir(k.home, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, strings.TrimPrefix(path, k.home))
		}
		return err
	}); err != nil {
		k.t.Fatal(err)
	}
	return files
}

// bastionds kills the program in the task. The link makes another one, and there is never more than one.
func (k *killed) bastionds() {
	far := k.far.Addr()
	_, addrs := k.forward(far, ":")
	slowest, done := time.Duration(0), 0
	for tries := 0; done < kills && tries < 3*kills; tries++ {
		k.moment()
		tasks := k.running()
		if len(tasks) > 1 {
			k.t.Fatalf("%d tasks run", len(tasks))
		}
		if len(tasks) == 0 || k.KillTask(tasks[0].ID) != nil {
			continue // it is only being made
		}
		done++
		what := fmt.Sprintf("kill %d", done)
		begun := time.Now()
		if !k.within(killRecover, func() bool {
			ctx, cancel := context.WithTimeout(k.t.Context(), killRecover)
			defer cancel()
			return echo(ctx, k.kept.Listen) == nil && echo(ctx, addrs[0]) == nil
		}) {
			k.t.Fatalf("%s: the forwards do not work again\n%s", what, k.agentLog())
		}
		slowest = max(slowest, time.Since(begun))
		if n := len(k.running()); n != 1 {
			k.t.Errorf("%s: %d tasks run", what, n)
		}
	}
	if done < kills {
		k.t.Errorf("there was a bastiond to kill %d times only", done)
	}
	k.t.Logf("back after at most %v", slowest.Round(time.Millisecond))
	k.settled()
}

// loaded ends the load and says how much there was.
func (k *killed) loaded() {
	k.t.Helper()
	if err := k.load.end(); err != nil {
		k.t.Error(err)
	}
	k.t.Logf("%d transfers, %d failed", k.load.whole.Load(), k.load.failures())
	if k.load.whole.Load() == 0 {
		k.t.Error("there was no load")
	}
}

// settled ends the load and the forwards, in the users' ways, and checks for leftovers.
func (k *killed) settled() {
	k.t.Helper()
	k.loaded()
	if n := len(k.running()); n != 1 {
		k.t.Errorf("%d tasks run", n)
	}
	if code, out := k.run(time.Minute, filepath.Join(bin, "bastion"), "stop", "all"); code != 0 {
		k.t.Errorf("bastion stop all: exit code %d\n%s", code, out)
	}
	if listening(k.t, k.kept.Listen) {
		k.t.Errorf("something listens at %s after bastion stop all", k.kept.Listen)
	}
}

// oneTask fails unless the one task that runs is the one that did.
func (k *killed) oneTask(what, id string) {
	k.t.Helper()
	if tasks := k.running(); len(tasks) != 1 || tasks[0].ID != id {
		k.t.Errorf("%s: tasks that run: %+v", what, tasks)
	}
}

// agentPID is the process id of the agent, or 0.
func (k *killed) agentPID() int {
	ctx, cancel := context.WithTimeout(k.t.Context(), 10*time.Second)
	defer cancel()
	info, err := k.agent().Info(ctx)
	if err != nil {
		return 0
	}
	return info.PID
}

// abandoned counts the sessions whose client has gone.
func (k *killed) abandoned() (n int) {
	for _, s := range k.Gateway().Sessions() {
		if !s.Connected {
			n++
		}
	}
	return n
}

// ends waits for a command to end by itself.
func (k *killed) ends(p *rig.Proc) (int, error) {
	ctx, cancel := context.WithTimeout(k.t.Context(), killRecover)
	defer cancel()
	return p.Wait(ctx)
}

// listenersIn are the addresses that commands say, in JSON, that they listen at.
func listenersIn(lines []string) (addrs []string) {
	for _, line := range lines {
		var said struct {
			Listen   string
			Forwards []struct{ Listen string }
		}
		if json.Unmarshal([]byte(line), &said) != nil {
			continue
		}
		if said.Listen != "" {
			addrs = append(addrs, said.Listen)
		}
		for _, f := range said.Forwards {
			addrs = append(addrs, f.Listen)
		}
	}
	return addrs
}

// load is transfers through a forward, one after the other, whatever becomes of them. Corrupt ones are not forgiven.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	whole  atomic.Int64
	ending atomic.Bool

	mu     sync.Mutex
	failed int
	last   error
	wrong  error
}

const loadSize = 64 << 10

func startLoad(addr string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	l.done.Go(func() {
		for ctx.Err() == nil && !l.ending.Load() {
			if err := l.transfer(ctx, addr); err != nil && ctx.Err() == nil {
				l.note(err)
				timer := time.NewTimer(20 * time.Millisecond)
				select {
				case <-timer.C:
				case <-ctx.Done():
				}
				timer.Stop()
			}
		}
	})
	return l
}

func (l *load) transfer(ctx context.Context, addr string) error {
	c, err := rig.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := rig.Both(ctx, c, loadSize); err != nil {
		return err
	}
	l.whole.Add(1)
	return nil
}

func (l *load) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed++
	l.last = err
	if errors.Is(err, rig.ErrCorrupt) {
		l.wrong = errors.Join(l.wrong, err)
	}
}

func (l *load) failures() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *load) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// end ends the load, after the transfer under way, and says whether bytes were other than those that were sent.
func (l *load) end() error {
	l.ending.Store(true)
	timer := time.AfterFunc(killRecover, l.cancel)
	defer timer.Stop()
	l.done.Wait()
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wrong
}
