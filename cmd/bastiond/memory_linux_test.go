package main

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/sessions/bond"
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
	clients := map[string]*ssh.Client{"ssh port": d.connect(t), "bond port": d.connectBy(t, bondPort)}
	for port, c := range clients {
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
			t.Logf("%s, %s: %.0f MB/s, with both sums", port, name, size/1e6/time.Since(began).Seconds())
			_ = conn.Close()
		}
	}
	usage, err := d.Usage()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak RSS %d MB, CPU %v for %d MB", usage.PeakRSS>>20, usage.CPU, 4*size>>20)
	if usage.PeakRSS > bound {
		t.Errorf("peak RSS %d MB, want at most %d", usage.PeakRSS>>20, bound>>20)
	}
}

// bondPort makes a connection of as many subflows as it asks for.
func bondPort(ports keys.Ports) (net.Conn, error) {
	return bond.Dial(context.Background(), bond.DialConfig{
		Open: func(context.Context) (net.Conn, error) {
			return net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(ports.Bond)))
		},
	})
}
