package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Pipe splices in and out, usually stdin and stdout, to conn, as [Splice] does. It closes all three: conn's end closes out, and it
// passes the end of in on to conn.
//
// Pipe cannot interrupt a Read or Write of a file that blocks in the kernel. Such files are terminals, and pipes not opened for
// polling, as stdin and stdout usually are. Even so, Pipe returns; a goroutine then stays in that call until the file's other end
// acts or the process ends. With other files (sockets, io.Pipe, files opened by os.Pipe) Pipe leaves no goroutine behind.
//
// A process that writes to a broken pipe on descriptor 1 dies of SIGPIPE, unless it has asked os/signal for that signal.
func Pipe(ctx context.Context, in io.ReadCloser, out io.WriteCloser, conn net.Conn) error {
	s := &stdio{
		in: in, out: out,
		closed:    make(chan struct{}),
		readDone:  make(chan readResult, 1),
		writeDone: make(chan writeResult, 1),
	}
	err := Splice(ctx, s, asDuplex(conn))
	if s.inEnds {
		s.reads.Wait()
	}
	if s.outEnds {
		s.writes.Wait()
	}
	return err
}

// stdio makes a Duplex of two files. Its Close ends Reads and Writes even if the files' own Close does not. One goroutine reads and
// one writes.
type stdio struct {
	in  io.ReadCloser
	out io.WriteCloser

	closed          chan struct{}
	closeOnce       sync.Once
	inEnds, outEnds bool // Close ended the calls on in, on out; written before closed is closed
	reads, writes   sync.WaitGroup
	readDone        chan readResult  // capacity 1, so that an abandoned call can end
	writeDone       chan writeResult // capacity 1, as readDone
	outOnce         sync.Once
}

func (s *stdio) Read(p []byte) (int, error) {
	if isClosed(s.closed) {
		return 0, net.ErrClosed
	}
	buf := chunks.Get().(*[chunk]byte) // not p, which belongs to the caller after an abandoned call
	want := min(len(p), chunk)
	s.reads.Go(func() {
		n, err := s.in.Read(buf[:want])
		s.readDone <- readResult{buf, n, err}
	})
	select {
	case r := <-s.readDone:
		copy(p, r.buf[:r.n])
		chunks.Put(r.buf)
		return r.n, r.err
	case <-s.closed:
		return 0, net.ErrClosed
	}
}

func (s *stdio) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if isClosed(s.closed) {
			return written, net.ErrClosed
		}
		buf := chunks.Get().(*[chunk]byte)
		m := copy(buf[:], p)
		s.writes.Go(func() {
			n, err := s.out.Write(buf[:m])
			chunks.Put(buf)
			s.writeDone <- writeResult{n, err}
		})
		select {
		case r := <-s.writeDone:
			written += r.n
			if r.err != nil {
				return written, r.err
			}
		case <-s.closed:
			return written, net.ErrClosed
		}
		p = p[m:]
	}
	return written, nil
}

// CloseWrite closes out, which ends the pipe.
func (s *stdio) CloseWrite() (err error) {
	s.outOnce.Do(func() { err = s.out.Close() })
	return err
}

func (s *stdio) Close() error {
	s.closeOnce.Do(func() {
		s.inEnds = interrupt(s.in)
		s.outOnce.Do(func() {})
		s.outEnds = interrupt(s.out)
		close(s.closed)
	})
	return nil
}

// interrupt closes f, and reports whether that ends the calls on it.
func interrupt(f io.Closer) bool {
	d, ok := f.(interface{ SetDeadline(time.Time) error })
	ends := !ok || !errors.Is(d.SetDeadline(time.Unix(1, 0)), os.ErrNoDeadline)
	_ = f.Close()
	return ends
}
