//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

var damageTime = flag.Duration("damage-time", 12*time.Second, "how long TestDamage cuts both sides of the sessions")

// An upload, a download and an echo go on while both sides of their sessions lose their websockets at random. Because of that,
// agents also write to their ports twice. None of them notices: every byte arrives over the one SSH connection.
func TestDamage(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), *damageTime+3*time.Minute)
	defer cancel()
	w := newWorld(t, nil)
	line := survivalLine
	line.CutBeforeAck, line.Seed = 0.002, 11
	w.faults(survivalLine)
	task := w.up()
	forwarder, addrs := w.forward(w.far.Addr(), ":")

	stop := make(chan struct{})
	var work sync.WaitGroup
	var rounds [3]atomic.Int64
	for i, one := range []func(context.Context) error{
		func(ctx context.Context) error { return overOne(ctx, addrs[0], rig.Upload) },
		func(ctx context.Context) error { return overOne(ctx, addrs[0], rig.Download) },
		echoes(addrs[0]),
	} {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := one(ctx); err != nil {
					t.Errorf("%s, round %d: %v", []string{"upload", "download", "echo"}[i], rounds[i].Load()+1, err)
					return
				}
				rounds[i].Add(1)
			}
		})
	}

	w.faults(line)
	rng := rand.New(rand.NewPCG(11, 11))
	cuts := [2]int{}
	end := time.After(*damageTime)
	for over := false; !over && !t.Failed(); {
		select {
		case <-time.After(300*time.Millisecond + rand.N(200*time.Millisecond)):
			sessions := w.Gateway().Sessions()
			rng.Shuffle(len(sessions), func(i, j int) { sessions[i], sessions[j] = sessions[j], sessions[i] })
			for _, i := range sessions[:min(len(sessions), 1+rng.IntN(3))] {
				id := i.ID
				if rng.IntN(2) == 0 {
					cuts[0] += w.Gateway().Cut(id, []string{"close", "reset"}[rng.IntN(2)])
				} else {
					cuts[1] += w.Gateway().CutAgent(id, gateway.CutClose)
				}
			}
		case <-end:
			over = true
		}
	}
	c := w.Gateway().Counters()
	w.faults(survivalLine)
	close(stop)
	work.Wait()
	t.Logf("%d uploads, %d downloads, %d echoes; %d cuts of clients, %d of agents; %d messages written twice; %d sessions, %d resumes",
		rounds[0].Load(), rounds[1].Load(), rounds[2].Load(), cuts[0], c.AgentCuts, c.TwicePort, c.Started, c.Resumes)
	for i := range rounds {
		if rounds[i].Load() == 0 {
			t.Errorf("round %d has not come to an end", i)
		}
	}
	if c.TwicePort == 0 || cuts[0] == 0 || cuts[1] == 0 {
		t.Error("too little has happened to show anything")
	}
	if n := len(w.audit(task, "auth")); n != 1 {
		t.Errorf("%d SSH connections were made, want 1", n)
	}
	w.interrupt(forwarder)
	if t.Failed() {
		t.Logf("bastion says:\n%s", forwarder.Output())
	}
}

// overOne transfers over a connection of its own.
func overOne(ctx context.Context, addr string, transfer func(context.Context, net.Conn, int64) error) error {
	c, err := rig.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return transfer(ctx, c, 1<<20)
}

// echoes makes one round trip after the other over one connection.
func echoes(addr string) func(context.Context) error {
	var echo *rig.Echo
	return func(ctx context.Context) error {
		if echo == nil {
			c, err := rig.Dial(ctx, addr)
			if err != nil {
				return err
			}
			context.AfterFunc(ctx, func() { _ = c.Close() })
			echo = rig.NewEcho(c)
		}
		return echo.Round()
	}
}

// A session straight to an SSH server has no bond. Damage ends it, at the damaged byte. ssh reports that and fails, and the remote
// program has received the bytes before it.
func TestDamageToOpenSSHServer(t *testing.T) {
	t.Parallel()
	rig.Need(t, "ssh")
	for name, faults := range map[string]gateway.Faults{
		"written twice": {CutBeforeAck: 1}, "repeated": {Repeat: 1}, "garbled": {Garble: 1},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			dir := t.TempDir()
			identity, key := identityFile(t, dir)
			server := startSSHD(t, key)
			w := newWorld(t, nil)
			w.AddInstance(node, lab.Instance{Ports: map[int]string{22: server.Addr()}})
			me, err := user.Current()
			if err != nil {
				t.Fatal(err)
			}
			known, got := filepath.Join(dir, "known_hosts"), filepath.Join(dir, "got")
			if err := os.WriteFile(known, fmt.Appendf(nil, "%s %s", node, ssh.MarshalAuthorizedKey(server.HostKey)), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(ctx, "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", identity,
				"-o", "UserKnownHostsFile="+known, "-o", "ProxyCommand="+filepath.Join(bin, "bastion")+" proxy %h %p",
				me.Username+"@"+node, "cat > "+got)
			cmd.Env = append(os.Environ(), w.env...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			const begin = 100_000
			data, err := io.ReadAll(rig.Data(64 << 20))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write(data[:begin]); err != nil {
				t.Errorf("before the damage: %v\n%s", err, &stderr)
			}
			if !w.within(30*time.Second, func() bool {
				info, err := os.Stat(got)
				return err == nil && info.Size() == begin
			}) {
				t.Errorf("what was sent before the damage has not come\n%s", &stderr)
			}
			w.faults(faults)
			if _, err := in.Write(data[begin:]); err == nil {
				t.Error("all was taken in spite of the damage")
			}
			_ = in.Close()
			exit := new(exec.ExitError)
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 255 || ctx.Err() != nil || stderr.Len() == 0 {
				t.Errorf("ssh ended with %v, and says:\n%s", err, &stderr)
			}
			t.Logf("ssh says: %s", &stderr)
			came, err := os.ReadFile(got)
			if err != nil || !bytes.HasPrefix(data, came) {
				t.Errorf("%d bytes came that are not the first ones: %v", len(came), err)
			}
		})
	}
}
