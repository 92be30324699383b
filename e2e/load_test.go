//go:build linux

package e2e

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// fastPump raises the pump's pace: 32 KiB at once in place of 1 KiB.
var fastPump = gateway.Faults{PumpChunk: 32 << 10}

func TestPgbench(t *testing.T) {
	pgbench := rig.Need(t, "pgbench")
	w := newWorld(t, func(c *lab.Config) { c.Postgres = vpc.Real })
	p, addrs := w.forward("rds:5432", ":")
	host, port, err := net.SplitHostPort(addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	w.env = append(w.env, "PGPASSWORD=lab")
	database := []string{"-h", host, "-p", port, "-U", "app"}
	if code, out := w.run(time.Minute, pgbench, append(database, "-i", "-q", "orders")...); code != 0 {
		t.Fatalf("pgbench -i: exit code %d\n%s", code, out)
	}
	code, out := w.run(time.Minute, pgbench, append(database, "-c", "10", "-j", "2", "-T", "30", "orders")...)
	if code != 0 || !strings.Contains(out, "number of failed transactions: 0 ") {
		t.Errorf("pgbench: exit code %d\n%s", code, out)
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "tps") || strings.HasPrefix(line, "latency average") {
			t.Log(strings.TrimSpace(line))
		}
	}
	w.interrupt(p)
}

// 200 connections at once go through one forward and its one SSH connection.
func TestManyConnections(t *testing.T) {
	const conns, size = 200, 64 << 10
	w := newWorld(t, nil)
	w.faults(fastPump)
	p, addrs := w.forward(w.far.Addr(), ":")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	errs := make([]error, conns)
	open := make(chan struct{}) // closed when all are connected and have had an echo
	var opened, done sync.WaitGroup
	opened.Add(conns)
	for i := range conns {
		done.Go(func() {
			echo, err := rig.Dial(ctx, addrs[0])
			if err == nil {
				defer echo.Close()
				err = rig.NewEcho(echo).Round()
			}
			opened.Done()
			if err == nil {
				<-open
				err = func() error {
					c, err := rig.Dial(ctx, addrs[0])
					if err != nil {
						return err
					}
					defer c.Close()
					return rig.Both(ctx, c, size)
				}()
			}
			errs[i] = err
		})
	}
	opened.Wait()
	close(open)
	done.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	w.interrupt(p)
}

// 256 MB each way arrive intact, and neither end's memory grows with them.
func TestBigTransfers(t *testing.T) {
	const size, limit = 256 << 20, 160 << 20
	w := newWorld(t, nil)
	w.faults(fastPump)
	task := w.up()
	p, addrs := w.forward(w.far.Addr(), ":")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for name, move := range map[string]func(context.Context, net.Conn, int64) error{"download": rig.Download, "upload": rig.Upload} {
		c := dial(ctx, t, addrs[0])
		start := time.Now()
		if err := move(ctx, c, size); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s of %d bytes: %.1f MB/s", name, size, size/1e6/time.Since(start).Seconds())
		_ = c.Close()
	}
	for name, pid := range map[string]int{"bastion": p.Cmd.Process.Pid, "bastiond": task.PID} {
		u, err := rig.ProcessUsage(pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: peak RSS %d MB", name, u.PeakRSS>>20)
		if u.PeakRSS > limit {
			t.Errorf("%s used %d MB of memory", name, u.PeakRSS>>20)
		}
	}
	w.interrupt(p)
}

// With messages lost, doubled and swapped both ways and the websocket cut three times, 64 MB each way arrive intact over one
// SSH connection.
func TestFaults(t *testing.T) {
	w := newWorld(t, nil)
	task := w.up()
	p, addrs := w.forward(w.far.Addr(), ":")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := w.faultyTransfer(ctx, addrs[0], faultySize); err != nil {
		t.Errorf("%v\n%s", err, p.Output())
	}
	if n := len(w.audit(task, "auth")); n != 1 {
		t.Errorf("%d SSH connections were made, want 1", n)
	}
	if n := w.Gateway().Counters().Resumes; n < 3 {
		t.Errorf("%d resumes after 3 cuts", n)
	}
	w.interrupt(p)
}

// The same faults end or corrupt a transfer through ssm-session-client's channel, which neither resends nor resumes. This is
// what the package sessions has that the library has not.
func TestFaultsBreakSSMSessionClient(t *testing.T) {
	ssmpeer := rig.Need(t, "ssmpeer")
	w := newWorld(t, nil)
	task := w.up()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	open := func() (addr string) { // the library serves one connection, then ends
		port, err := rig.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		p := w.start(ssmpeer, "forward", task.Target, strconv.Itoa(w.far.Port()), strconv.Itoa(port))
		if err := p.WaitOutput(ctx, "listening"); err != nil {
			t.Fatal(err)
		}
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	// Without faults it works most of the time: data from before the agent has connected to the port may be lost for good.
	err := errors.New("not tried")
	for try := 0; try < 5 && err != nil; try++ {
		c := dial(ctx, t, open())
		uploading, cancel := context.WithTimeout(ctx, 8*time.Second)
		err = rig.Upload(uploading, c, 64<<10)
		cancel()
		_ = c.Close()
	}
	if err != nil {
		t.Fatalf("without faults: %v", err)
	}
	err = w.faultyTransfer(ctx, open(), faultySize)
	if err == nil {
		t.Fatal("the transfer arrived intact: is the library's channel reliable by now?")
	}
	t.Logf("ssm-session-client: %v", err)
}

const faultySize = 64 << 20

// faultyTransfer moves n bytes each way at once through addr, with every fault of a bad path and three cuts.
func (w *world) faultyTransfer(ctx context.Context, addr string, n int64) error {
	w.faults(gateway.Faults{Drop: 0.01, Duplicate: 0.01, Reorder: 0.02, Seed: 1, PumpChunk: 32 << 10})
	defer w.faults(gateway.Faults{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	base := w.moved()
	cutter := make(chan struct{})
	go func() { // a cut at each quarter of the way
		defer close(cutter)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for cuts := int64(0); cuts < 3; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if w.moved()-base > (cuts+1)*2*n/4 {
				w.Gateway().Cut("", []string{"close", "reset", "close"}[cuts])
				cuts++
			}
		}
	}()
	c, err := rig.Dial(ctx, addr)
	if err == nil {
		err = rig.Both(ctx, c, n)
		_ = c.Close()
	}
	cancel()
	<-cutter
	return err
}

// moved is how many bytes of data the live sessions have carried.
func (w *world) moved() (n int64) {
	for _, s := range w.Gateway().Sessions() {
		n += s.BytesUp + s.BytesDown
	}
	return n
}
