package gateway

import (
	"io"
	"sync"
)

const pipeBytes = 208 << 10 // the buffer of a unix socket of the real agent

// duplex returns the two ends of a buffered in-memory connection. Closing one end gives the other EOF after the buffered bytes.
func duplex() (a, b *pipeEnd) {
	x, y := newPipeBuf(), newPipeBuf()
	return &pipeEnd{r: x, w: y}, &pipeEnd{r: y, w: x}
}

type pipeEnd struct{ r, w *pipeBuf }

func (p *pipeEnd) Read(b []byte) (int, error)  { return p.r.read(b) }
func (p *pipeEnd) Write(b []byte) (int, error) { return p.w.write(b) }

func (p *pipeEnd) Close() error {
	p.r.close()
	p.w.close()
	return nil
}

// pipeBuf is one direction: a ring of pipeBytes.
type pipeBuf struct {
	mu     sync.Mutex
	cond   sync.Cond
	buf    []byte
	start  int
	n      int
	closed bool
}

func newPipeBuf() *pipeBuf {
	p := &pipeBuf{buf: make([]byte, pipeBytes)}
	p.cond.L = &p.mu
	return p
}

func (p *pipeBuf) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.n == 0 {
		if p.closed {
			return 0, io.EOF
		}
		p.cond.Wait()
	}
	total := 0
	for total < len(b) && p.n > 0 {
		n := copy(b[total:], p.buf[p.start:min(len(p.buf), p.start+p.n)])
		p.start, p.n, total = (p.start+n)%len(p.buf), p.n-n, total+n
	}
	p.cond.Broadcast()
	return total, nil
}

func (p *pipeBuf) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := 0
	for total < len(b) {
		for p.n == len(p.buf) && !p.closed {
			p.cond.Wait()
		}
		if p.closed {
			return total, io.ErrClosedPipe
		}
		end := (p.start + p.n) % len(p.buf)
		n := copy(p.buf[end:min(len(p.buf), end+len(p.buf)-p.n)], b[total:])
		p.n, total = p.n+n, total+n
		p.cond.Broadcast()
	}
	return total, nil
}

func (p *pipeBuf) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.cond.Broadcast()
}
