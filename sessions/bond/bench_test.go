package bond

import (
	"fmt"
	"io"
	"runtime"
	"testing"
)

// BenchmarkAllocations counts what both ends allocate for each MB that goes over 8 subflows, all in this process: a
// figure that grows with the size is a path that allocates for what it moves.
func BenchmarkAllocations(b *testing.B) {
	client, server, _ := newPair(b, 8)
	block := make([]byte, 1e6)
	for _, size := range []int{1, 4, 16, 64, 256} {
		b.Run(fmt.Sprintf("size=%dMB", size), func(b *testing.B) {
			b.SetBytes(int64(size * len(block)))
			move := func() {
				sent := make(chan error, 1)
				go func() {
					for range size {
						if _, err := server.Write(block); err != nil {
							sent <- err
							return
						}
					}
					sent <- nil
				}()
				if _, err := io.CopyN(io.Discard, client, int64(size*len(block))); err != nil {
					b.Error(err)
				}
				if err := <-sent; err != nil {
					b.Error(err)
				}
			}
			move() // fills the buffers
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			b.ResetTimer()
			for range b.N {
				move()
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N*size), "allocs/MB")
		})
	}
}

// BenchmarkRoundTrip sends one byte to the other end and has it back, over one subflow and over 8.
func BenchmarkRoundTrip(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprintf("subflows=%d", n), func(b *testing.B) {
			client, server, _ := newPair(b, n)
			echoed := make(chan error, 1)
			go func() {
				_, err := io.Copy(server, server)
				echoed <- err
			}()
			buf := []byte{1}
			for b.Loop() {
				if _, err := client.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(client, buf); err != nil {
					b.Fatal(err)
				}
			}
			if err := client.CloseWrite(); err != nil {
				b.Fatal(err)
			}
			if err := <-echoed; err != nil {
				b.Error(err)
			}
		})
	}
}
