package sessions

import (
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe returns a stream and the far end of it.
func pipe(t testing.TB, opts fakeOptions, cfg Config) (*Stream, net.Conn, *fakeService) {
	t.Helper()
	near, far := net.Pipe()
	f := newFakeService(t, opts, func(int) (net.Conn, error) { return near, nil })
	s, err := f.client(cfg).OpenPort(t.Context(), Port{Target: "i-0123456789abcdef0", Port: 22})
	if err != nil {
		t.Fatal(err)
	}
	return s, far, f
}

func TestConn(t *testing.T) {
	t.Run("stream", func(t *testing.T) {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			s, far, f := pipe(t, fakeOptions{interval: time.Millisecond}, Config{})
			return s, far, func() { s.Close(); far.Close(); f.close(); f.checkTerminated() }, nil
		})
	})
	t.Run("far end", func(t *testing.T) {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			s, far, f := pipe(t, fakeOptions{interval: time.Millisecond}, Config{})
			return far, s, func() { s.Close(); far.Close(); f.close(); f.checkTerminated() }, nil
		})
	})
}
