package main

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// What passes through does not stay: memory is bounded however much is transferred.
func TestMemoryIsBounded(t *testing.T) {
	const size, bound = 256 << 20, 64 << 20
	far, err := rig.StartFarEnd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	d := startDaemon(t, "--allow", far.Addr())
	c := d.connect(t)
	for name, transfer := range map[string]func(context.Context, net.Conn, int64) error{
		"download": rig.Download, "upload": rig.Upload,
	} {
		conn, err := c.Dial("tcp", far.Addr())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := transfer(t.Context(), conn, size); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.0f MB/s, with both sums", name, size/1e6/time.Since(began).Seconds())
		_ = conn.Close()
	}
	usage, err := d.Usage()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak RSS %d MB, CPU %v for %d MB", usage.PeakRSS>>20, usage.CPU, 2*size>>20)
	if usage.PeakRSS > bound {
		t.Errorf("peak RSS %d MB, want at most %d", usage.PeakRSS>>20, bound>>20)
	}
}
