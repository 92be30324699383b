package sessions

import (
	"fmt"
	"io"
	"testing"
	"time"
)

func BenchmarkStreamUpload(b *testing.B) {
	for _, delay := range []time.Duration{0, 20 * time.Millisecond} {
		b.Run(fmt.Sprintf("delay=%v", delay), func(b *testing.B) {
			c := newWSAgent(b, &wsAgent{delay: delay})
			benchUpload(b, c)
		})
	}
	b.Run("payload=1024", func(b *testing.B) {
		c := newWSAgent(b, &wsAgent{})
		c.payloadLimit.Store(1024)
		benchUpload(b, c)
	})
}

func benchUpload(b *testing.B, c *Client) {
	s, err := c.OpenPort(b.Context(), Port{Target: "i-1", Port: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	buf := make([]byte, 32<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := s.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	st := s.Stats()
	b.ReportMetric(float64(st.Payload), "payload")
	b.ReportMetric(float64(st.Window), "window")
	b.ReportMetric(float64(st.Resends), "resends")
}

func BenchmarkStreamDownload(b *testing.B) {
	c := newWSAgent(b, &wsAgent{send: true, chunk: 1024})
	s, err := c.OpenPort(b.Context(), Port{Target: "i-1", Port: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	buf := make([]byte, 32<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := io.ReadFull(s, buf); err != nil {
			b.Fatal(err)
		}
	}
}
