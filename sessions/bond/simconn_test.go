package bond

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lagging is a stream between two ends that takes its time, can hold back, repeat or alter what it carries, and can be cut.
type lagging struct {
	delay time.Duration
	stop  chan struct{}
	once  sync.Once
	work  *sync.WaitGroup

	mu     sync.Mutex
	held   time.Time
	damage func([]byte) []byte // what becomes of the next piece; nil: nothing
}

// newLagging returns a stream's two ends. work waits for its goroutines, which end once it is cut or one end is closed.
func newLagging(delay time.Duration, work *sync.WaitGroup) (l *lagging, client, server net.Conn) {
	l = &lagging{delay: delay, stop: make(chan struct{}), work: work}
	client, nearEnd := net.Pipe()
	server, farEnd := net.Pipe()
	for _, way := range [][2]net.Conn{{nearEnd, farEnd}, {farEnd, nearEnd}} {
		work.Go(func() { l.carry(way[0], way[1]) })
	}
	work.Go(func() {
		<-l.stop
		nearEnd.Close()
		farEnd.Close()
	})
	return l, client, server
}

func (l *lagging) cut() { l.once.Do(func() { close(l.stop) }) }

func (l *lagging) hold(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = time.Now().Add(d)
}

// harm damages the next piece of either direction.
func (l *lagging) harm(damage func([]byte) []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.damage = damage
}

// harmed returns what becomes of a piece.
func (l *lagging) harmed(b []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.damage != nil {
		b, l.damage = l.damage(b), nil
	}
	return b
}

// due is when something that came now is to arrive.
func (l *lagging) due() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := time.Now().Add(l.delay); at.After(l.held) {
		return at
	}
	return l.held
}

type parcel struct {
	b   []byte
	due time.Time
}

// carry moves bytes from one pipe to the other. The stream ends for both once it ends for one.
func (l *lagging) carry(from, to net.Conn) {
	parcels := make(chan parcel, 16)
	l.work.Go(func() {
		defer l.cut()
		for p := range parcels {
			select {
			case <-after(time.Until(p.due)):
			case <-l.stop:
				continue
			}
			if _, err := to.Write(p.b); err != nil {
				l.cut()
			}
		}
	})
	defer close(parcels)
	for {
		b := make([]byte, 8<<10)
		n, err := from.Read(b)
		if n > 0 {
			select {
			case parcels <- parcel{l.harmed(b[:n]), l.due()}:
			case <-l.stop:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// chaos is a run of two Conns over lagging streams that come and go.
type chaos struct {
	t              *testing.T
	rng            *rand.Rand
	client, server *Conn
	links          map[uint32]*lagging
	next           uint32
	work           sync.WaitGroup
}

// add opens a subflow, or tells the client why there cannot be another.
func (c *chaos) add() {
	l, near, far := newLagging(time.Duration(c.rng.Int64N(int64(100*time.Millisecond))), &c.work)
	id := c.next
	c.next++
	keys, peers := sealsOf(id)
	if err := c.server.attach(id, far, newFrameReader(far), peers, "", nil); err != nil {
		far.Close()
		near.Close()
		l.cut()
		refused := &RefusedError{Code: RefuseUnknown, sure: true}
		if c.server.delivered() {
			refused.Code = RefuseClosed
		}
		c.client.fail(refused)
		return
	}
	if err := c.client.attach(id, near, newFrameReader(near), keys, "", nil); err != nil {
		near.Close()
		l.cut()
		return
	}
	c.links[id] = l
}

// disturb does something to the subflows.
func (c *chaos) disturb() {
	up := map[uint32]bool{}
	for _, s := range c.client.view().subflows {
		up[s.id] = true
	}
	var live []uint32
	for id := range c.next {
		if up[id] && c.links[id] != nil {
			live = append(live, id)
		}
	}
	if len(live) == 0 {
		c.add()
		return
	}
	id := live[c.rng.IntN(len(live))]
	switch c.rng.IntN(10) {
	case 8:
		c.links[id].harm(func(b []byte) []byte { return append(b, b...) })
	case 9:
		at := c.rng.Uint64()
		c.links[id].harm(func(b []byte) []byte {
			b[at%uint64(len(b))] ^= byte(1 + at>>32%255)
			return b
		})
	case 0, 1:
		c.links[id].cut()
	case 2:
		for _, id := range live {
			c.links[id].cut()
		}
	case 3:
		c.links[id].hold(time.Duration(c.rng.Int64N(int64(20 * time.Second))))
	case 4:
		[]*Conn{c.client, c.server}[c.rng.IntN(2)].leave(id)
	case 5:
		[]*Conn{c.client, c.server}[c.rng.IntN(2)].probe(time.Second)
	default:
		if len(live) < 4 {
			c.add()
		}
	}
}

// check checks the invariants of both machines.
func (c *chaos) check() {
	for _, end := range []*Conn{c.client, c.server} {
		end.mu.Lock()
		if end.m.err == nil {
			end.m.check()
			for _, p := range end.m.paths {
				p.flow.check()
			}
		}
		end.mu.Unlock()
	}
}

// send writes all of b in pieces and ends the stream; receive reads the other's and compares.
func send(c *Conn, b []byte, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 0x5e))
	for len(b) > 0 {
		n := min(len(b), 1+rng.IntN(1+rng.IntN(64<<10)))
		if _, err := c.Write(b[:n]); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b = b[n:]
		if rng.IntN(4) == 0 {
			<-after(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
		}
	}
	return c.CloseWrite()
}

func receive(c *Conn, want []byte) error {
	got, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("got %d bytes, not the %d that were written", len(got), len(want))
	}
	return nil
}

func (c *chaos) run(seed uint64) error {
	began := time.Now()
	both := make(chan error, 4)
	for i, way := range [][2]*Conn{{c.client, c.server}, {c.server, c.client}} {
		at := c.rng.IntN(len(simBytes) / 2)
		b := simBytes[at : at+c.rng.IntN(300_000)]
		go func() { both <- send(way[0], b, seed+uint64(i)) }()
		go func() { both <- receive(way[1], b) }()
	}
	calm := 100 * time.Millisecond << c.rng.IntN(6)
	var problems error
	for left := 4; left > 0 || !hasEnded(c.client) || !hasEnded(c.server); {
		select {
		case err := <-both:
			problems = errors.Join(problems, err)
			left--
		case <-after(time.Duration(c.rng.Int64N(int64(calm)))):
			c.disturb()
			c.check()
		}
		if problems != nil {
			return problems
		}
		if time.Since(began) > simEnough {
			return errors.New("it does not end")
		}
		if left == 0 && hasEnded(c.client) { // no more subflows are opened then
			<-c.server.Done()
		}
	}
	if err := c.client.Err(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the client ended with %w", err)
	}
	// The client's last word may be lost with the last subflow.
	reset := new(ResetError)
	if err := c.server.Err(); !errors.Is(err, io.EOF) && (!errors.As(err, &reset) || reset.Code != ResetLinger) {
		return fmt.Errorf("the server ended with %w", err)
	}
	return nil
}

// TestConnSimulation is TestSimulation with all that is around the machines: readers, writers, timers and locks.
func TestConnSimulation(t *testing.T) {
	runs := uint64(200)
	if testing.Short() {
		runs = 40
	}
	first := uint64(1)
	if *simSeed != 0 {
		first, runs = *simSeed, *simSeed
	}
	for seed := first; seed <= runs && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			c := &chaos{t: t, rng: rand.New(rand.NewPCG(seed, 0xc0)), links: map[uint32]*lagging{}}
			cfg := func() Config {
				return Config{Window: 64 << 10 << c.rng.IntN(5), SendBuffer: 16 << 10 << c.rng.IntN(7), Linger: 10 * time.Minute}
			}
			c.client = newConn(identity{}, cfg(), true)
			c.server = newConn(identity{}, cfg(), false)
			began := time.Now()
			err := c.run(seed)
			if err != nil {
				t.Errorf("after %s: %v\nreproduce: go test ./sessions/bond -run '^TestConnSimulation$' -bond.seed=%d",
					time.Since(began), err, seed)
			}
			abort(c.client)
			abort(c.server)
			for _, l := range c.links {
				l.cut()
			}
			c.work.Wait()
		})
	}
}
