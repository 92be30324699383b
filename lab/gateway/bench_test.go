package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// BenchmarkUpload is a client that fills a window without waiting: the client's own work is in the figure.
func BenchmarkUpload(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			g := newGateway(b, Config{})
			counted := make(chan int64, 1)
			port := serveTCP(b, func(c net.Conn) {
				n, _ := io.Copy(io.Discard, c)
				counted <- n
			})
			p := start(b, g, sshSpec("bench", port))
			p.handshake("1.3.0.0")
			waitFor(b, "the dial", func() bool { return handlerReady(g, "bench") })
			acked := make(chan int64, 1<<16)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				var buf [4096]byte
				for {
					_, r, err := p.ws.Reader(context.Background())
					if err != nil {
						return
					}
					n := 0
					for err == nil {
						var m int
						m, err = r.Read(buf[n:])
						n += m
					}
					acked <- 1
				}
			}()
			payload := make([]byte, size)
			window := int64(512 << 10 / size)
			inFlight := int64(0)
			buf := make([]byte, 0, size+frame.Overhead)
			b.SetBytes(int64(size))
			for b.Loop() {
				for inFlight >= window {
					inFlight -= <-acked
				}
				m := frame.Message{
					Type: frame.InputStreamData, Seq: p.seq, PayloadType: frame.PayloadOutput, Payload: payload,
					ID: uuid.UUID{1}, Created: time.Now(),
				}
				p.seq++
				if err := p.ws.Write(context.Background(), websocket.MessageBinary, m.Append(buf)); err != nil {
					b.Fatal(err)
				}
				inFlight++
			}
			for inFlight > 0 {
				inFlight -= <-acked
			}
			_ = g.Terminate("bench")
			if got, want := <-counted, (p.seq-1)*int64(size); got != want {
				b.Errorf("%d bytes arrived of %d", got, want)
			}
			_ = p.ws.CloseNow()
			<-ended
		})
	}
}

// BenchmarkDownload is at the agent's pace, and without it.
func BenchmarkDownload(b *testing.B) {
	for _, bench := range []struct {
		name   string
		faults Faults
	}{
		{"faithful", Faults{}},
		{"unpaced", Faults{PumpIntervalUS: -1}},
		{"unpaced-16k", Faults{PumpIntervalUS: -1, PumpChunk: 16 << 10}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			g := newGateway(b, Config{})
			if err := g.SetFaults(bench.faults); err != nil {
				b.Fatal(err)
			}
			port := serveTCP(b, func(c net.Conn) {
				zeros := make([]byte, 64<<10)
				for {
					if _, err := c.Write(zeros); err != nil {
						return
					}
				}
			})
			p := start(b, g, sshSpec("bench", port))
			p.handshake("1.3.0.0")
			p.frames = nil
			size := int64(max(1024, bench.faults.PumpChunk))
			b.SetBytes(size)
			n := int64(0)
			for b.Loop() {
				for n < size {
					m, err := p.read(10 * time.Second)
					if err != nil {
						b.Fatal(err)
					}
					if m.Type == frame.OutputStreamData {
						n += int64(len(m.Payload))
					}
					p.frames = p.frames[:0]
				}
				n -= size
			}
			_ = g.Terminate("bench")
		})
	}
}
