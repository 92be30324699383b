package bond

import (
	"fmt"
	"io"
	"runtime"
	"testing"
)

// BenchmarkAllocations counts both ends' allocations for each MB over 8 subflows, in one process. A figure that grows with the size
// shows a path that allocates for the bytes it moves.
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

// BenchmarkCPU measures both ends' processor time for each MB over 8 subflows, including the kernel's part of loopback TCP. It
// compares version 1, without codes, with version 2. Compare figures of one run.
func BenchmarkCPU(b *testing.B) {
	block := make([]byte, 1e6)
	for version := uint8(minVersion); version <= maxVersion; version++ {
		b.Run(fmt.Sprintf("version=%d", version), func(b *testing.B) {
			client, server, _ := newPairOf(b, 8, version)
			b.SetBytes(int64(len(block)))
			sent := make(chan error, 1)
			before := cpuTime(b)
			b.ResetTimer()
			go func() {
				for range b.N {
					if _, err := server.Write(block); err != nil {
						sent <- err
						return
					}
				}
				sent <- nil
			}()
			if _, err := io.CopyN(io.Discard, client, int64(b.N*len(block))); err != nil {
				b.Error(err)
			}
			if err := <-sent; err != nil {
				b.Error(err)
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-us/MB")
		})
	}
}

// BenchmarkSeal is a frame's code alone, made and verified.
func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{ackSize, dataHeader + leastChunk, dataHeader + maxData} {
		b.Run(fmt.Sprintf("frame=%d", size), func(b *testing.B) {
			client, server := sealsOf(1)
			buf := make([]byte, size, size+sealSize)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				sealed := client.out.append(buf, 0)
				if !server.in.verify(buf, sealed[size:]) {
					b.Fatal("it does not verify")
				}
			}
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
