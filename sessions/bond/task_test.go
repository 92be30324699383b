package bond

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// task is the processor that the agent's processes share, as the kernel gives it: so much in each tenth of a second.
type task struct {
	quota time.Duration

	mu     sync.Mutex
	begin  time.Time
	period int
	used   time.Duration
}

const taskPeriod = 100 * time.Millisecond

// work uses d of the processor's time, and waits until that is done.
func (k *task) work(d time.Duration) {
	k.mu.Lock()
	now := time.Now()
	if p := int(now.Sub(k.begin) / taskPeriod); p > k.period {
		k.period, k.used = p, 0
	}
	at := now
	for left := d; ; {
		if begin := k.begin.Add(time.Duration(k.period) * taskPeriod); at.Before(begin) {
			at = begin
		}
		if k.used+left <= k.quota {
			k.used += left
			at = at.Add(left)
			break
		}
		left -= k.quota - k.used
		k.period, k.used = k.period+1, 0
	}
	k.mu.Unlock()
	time.Sleep(time.Until(at)) //nolint:forbidigo // the bubble's clock
}

// What a message costs the agent, as docs/performance.md has it.
const (
	costDown = 210 * time.Microsecond
	costUp   = 170 * time.Microsecond
	costKB   = 4 * time.Microsecond

	smallest, largest = 1 << 10, 16 << 10 // the bytes of a message upwards
)

// taskPaths makes a connection over n paths whose agents share a processor. Downwards each carries a kilobyte, then rests for a
// millisecond; upwards messages of first bytes grow while more waits, as those of a session do.
func taskPaths(t *testing.T, n int, cpu float64, first int) (client, server *Conn) {
	t.Helper()
	client, server, _ = newPair(t, 0)
	k := &task{quota: time.Duration(cpu * float64(taskPeriod)), begin: time.Now()}
	var pumps sync.WaitGroup
	t.Cleanup(pumps.Wait)
	for i := range n {
		d := newPump(1024, 1100*time.Microsecond, 0)
		d.before = func(int) { k.work(costDown) }
		u := newPump(first, 0, 0)
		streak := 0
		u.before = func(waiting int) {
			k.work(costUp + costKB*time.Duration(u.piece>>10))
			if streak++; waiting < 32*u.piece {
				streak = 0
			}
			if streak >= 64 {
				u.piece, streak = min(2*u.piece, largest), 0
			}
		}
		pumps.Go(d.run)
		pumps.Go(u.run)
		attachPair(t, client, server, uint32(i), &pumpConn{in: d, out: u}, &pumpConn{in: u, out: d})
	}
	t.Cleanup(func() {
		var both sync.WaitGroup
		both.Go(func() { _ = client.Close() })
		both.Go(func() { _ = server.Close() })
		both.Wait()
	})
	return client, server
}

// taskRates measures what goes down and up over n sessions of a task, after some seconds, in bytes per second.
func taskRates(t *testing.T, n int, cpu float64, down, up bool) (rate speed) {
	synctest.Test(t, func(t *testing.T) {
		first := smallest
		if down && up {
			first = largest
		}
		client, server := taskPaths(t, n, cpu, first)
		var stops []func()
		var readers sync.WaitGroup
		read := func(c *Conn) {
			readers.Go(func() { _, _ = io.Copy(io.Discard, c) })
		}
		if down {
			stops = append(stops, flood(server))
			read(client)
		}
		if up {
			stops = append(stops, flood(client))
			read(server)
		}
		const warm, span = 6 * time.Second, 4 * time.Second
		time.Sleep(warm) //nolint:forbidigo // the bubble's clock
		d, u := client.Stats().Received, server.Stats().Received
		time.Sleep(span) //nolint:forbidigo // the bubble's clock
		rate.down = float64(client.Stats().Received-d) / span.Seconds()
		rate.up = float64(server.Stats().Received-u) / span.Seconds()
		for _, stop := range stops {
			stop()
		}
		abort(client)
		abort(server)
		readers.Wait()
	})
	return rate
}

// More sessions than a task's processor can serve make no transfer slower, neither one way nor the other. Transfers both ways share
// the processor as the kernel pleases, so the test does not compare their rates. Their shares of their single rates add up to about
// one, or less if the connection sends needless bytes. Twelve runs had 0.80 to 1.07 of it with 4 and 16 sessions.
func TestSessionsBeyondTheTasksProcessor(t *testing.T) {
	const enough, enoughBoth = 0.95, 0.7
	for _, cpu := range []float64{0.25, 0.5} {
		var best speed
		for _, n := range []int{1, 4, 16} {
			down, up := taskRates(t, n, cpu, true, false).down, taskRates(t, n, cpu, false, true).up
			both := taskRates(t, n, cpu, true, true)
			fell := down < enough*best.down || up < enough*best.up
			best = speed{up: max(best.up, up), down: max(best.down, down)}
			share := both.down/best.down + both.up/best.up
			t.Logf("%.2f vCPU, %d sessions: down %.2f, up %.2f, both at once %.2f and %.2f MB/s, %.2f of the processor",
				cpu, n, down/mb, up/mb, both.down/mb, both.up/mb, share)
			if fell || share < enoughBoth {
				t.Errorf("%.2f vCPU, %d sessions are slower than fewer", cpu, n)
			}
		}
	}
}
