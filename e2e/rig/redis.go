//go:build unix

package rig

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// StartTLSRedis starts a Redis that accepts TLS alone, with a certificate in PEM. dir is for its files. End it by Stop.
func StartTLSRedis(ctx context.Context, server, dir string, cert, key []byte) (*Proc, netip.AddrPort, error) {
	files := map[string][]byte{"cert.pem": cert, "key.pem": key}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, netip.AddrPort{}, err
		}
	}
	port, err := FreePort()
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	p, err := Start(nil, server, "--bind", "127.0.0.1", "--port", "0", "--tls-port", strconv.Itoa(port), "--save", "", "--dir", dir,
		"--tls-cert-file", filepath.Join(dir, "cert.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"), "--tls-auth-clients", "no")
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	if err := p.WaitOutput(ctx, "Ready to accept connections"); err != nil {
		_, stopErr := p.Stop(syscall.SIGKILL)
		return nil, netip.AddrPort{}, errors.Join(err, stopErr)
	}
	return p, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)), nil
}
