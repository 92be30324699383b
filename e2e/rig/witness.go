package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"
)

// worker is a goroutine that works until it fails or is to stop.
type worker struct {
	cancel context.CancelFunc
	stop   chan struct{} // closed by end
	done   chan struct{} // closed by the goroutine
}

func (w *worker) begin(ctx context.Context) context.Context {
	w.stop, w.done = make(chan struct{}), make(chan struct{})
	ctx, w.cancel = context.WithCancel(ctx)
	return ctx
}

// end lets the work under way end within limit, and waits for the goroutine.
func (w *worker) end(limit time.Duration) {
	defer w.cancel()
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	timer := time.AfterFunc(limit, w.cancel)
	defer timer.Stop()
	<-w.done
}

// Done is closed when the work has failed, or when it has ended after Stop.
func (w *worker) Done() <-chan struct{} { return w.done }

// Transfers moves data both ways at once, over one connection after the other, until it is stopped.
type Transfers struct {
	worker
	moved atomic.Int64
	whole int   // transfers that have ended; valid once done is closed
	err   error // the same
}

// StartTransfers begins transfers of size bytes each way to the far end behind addr. End them by Stop.
func StartTransfers(ctx context.Context, addr string, size int64) *Transfers {
	t := new(Transfers)
	ctx = t.begin(ctx)
	go func() {
		defer close(t.done)
		for t.err == nil {
			select {
			case <-t.stop:
				return
			default:
			}
			if t.err = t.transfer(ctx, addr, size); t.err == nil {
				t.whole++
			}
		}
	}()
	return t
}

func (t *Transfers) transfer(ctx context.Context, addr string, size int64) error {
	c, err := Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return Both(ctx, &metered{c, &t.moved}, size)
}

// Moved is how many bytes have come down so far.
func (t *Transfers) Moved() int64 { return t.moved.Load() }

// Stop lets the transfer under way end within limit, and returns how many were made. It waits for their end.
func (t *Transfers) Stop(limit time.Duration) (whole int, err error) {
	t.end(limit)
	return t.whole, t.err
}

// metered counts the read bytes.
type metered struct {
	net.Conn
	n *atomic.Int64
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.n.Add(int64(n))
	return n, err
}

func (m *metered) CloseWrite() error { return m.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// Witness is a psql that is at work all the time: in one transaction, by small statements and now and then a COPY. Whatever
// becomes of its connection, it notices.
type Witness struct {
	worker
	psql *PSQL

	// Valid once done is closed.
	statements int
	slowest    time.Duration
	backend    string
	err        error
}

const (
	witnessPace  = 100 * time.Millisecond // between statements
	witnessCopy  = 20                     // statements from one COPY to the next
	witnessRows  = 2000                   // of a COPY
	witnessLimit = 30 * time.Second       // for its beginning
)

// StartWitness sets psql to work. End it by Stop, which ends psql, too.
func StartWitness(ctx context.Context, psql *PSQL) (*Witness, error) {
	w := &Witness{psql: psql}
	begin, cancel := context.WithTimeout(ctx, witnessLimit)
	defer cancel()
	backend, err := psql.Query(begin, "begin; create temporary table witness (n integer); select pg_backend_pid();")
	if err == nil && len(backend) != 1 {
		err = fmt.Errorf("backend %q", backend)
	}
	if err != nil {
		psql.Kill()
		return nil, err
	}
	w.backend = backend[0]
	ctx = w.begin(ctx)
	go func() {
		defer close(w.done)
		tick := time.NewTicker(witnessPace)
		defer tick.Stop()
		for w.err == nil {
			select {
			case <-w.stop:
				w.err = w.finish(ctx)
				return
			case <-tick.C:
			}
			begun := time.Now()
			w.err = w.work(ctx)
			w.slowest = max(w.slowest, time.Since(begun))
		}
	}()
	return w, nil
}

func (w *Witness) work(ctx context.Context) error {
	w.statements++
	if w.statements%witnessCopy == 0 {
		return w.psql.Copy(ctx, witnessRows)
	}
	_, err := w.psql.Query(ctx, "insert into witness values ("+strconv.Itoa(w.statements)+");")
	return err
}

func (w *Witness) finish(ctx context.Context) error {
	rows := strconv.Itoa(w.statements - w.statements/witnessCopy)
	return errors.Join(
		w.psql.Expect(ctx, "select count(distinct n) from witness;", rows),
		w.psql.Expect(ctx, "select pg_backend_pid();", w.backend),
		w.psql.Expect(ctx, "commit; select 'committed';", "committed"),
		w.psql.Quit(ctx))
}

// Stop ends the work and psql, within limit, and returns how many statements were run and how long the slowest took.
func (w *Witness) Stop(limit time.Duration) (statements int, slowest time.Duration, err error) {
	defer w.psql.Kill()
	w.end(limit)
	return w.statements, w.slowest, w.err
}
