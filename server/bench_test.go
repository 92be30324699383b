package server

import (
	"io"
	"net"
	"testing"
)

// BenchmarkForward measures one forwarded connection, client and destination in the same process.
func BenchmarkForward(b *testing.B) {
	const chunk = 1 << 20
	for name, down := range map[string]bool{"up": false, "down": true} {
		b.Run(name, func(b *testing.B) {
			far := farEnd(b, func(conn *net.TCPConn) {
				if !down {
					_, _ = io.Copy(io.Discard, conn)
					return
				}
				data := make([]byte, chunk)
				for {
					if _, err := conn.Write(data); err != nil {
						return
					}
				}
			})
			s := start(b, Config{Allow: allowOnly(b, far)})
			conn := connect(b, s.dial(b, s.grant(b)), far)
			data := make([]byte, chunk)
			b.SetBytes(chunk)
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if down {
					_, err = io.ReadFull(conn, data)
				} else {
					_, err = conn.Write(data)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
