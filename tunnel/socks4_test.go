package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// request4 sends a SOCKS4 request and returns the code of the answer.
func request4(t *testing.T, addr string, msg []byte, early string) (code byte, c *net.TCPConn) {
	t.Helper()
	c = dialTCP(t, addr)
	if _, err := c.Write(append(bytes.Clone(msg), early...)); err != nil {
		t.Fatal(err)
	}
	var answer [8]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		t.Fatalf("reply: %v", err)
	}
	if answer[0] != 0 {
		t.Fatalf("answer %x", answer)
	}
	return answer[1], c
}

func msg4(cmd byte, port uint16, ip [4]byte, texts ...string) []byte {
	m := append(binary.BigEndian.AppendUint16([]byte{4, cmd}, port), ip[:]...)
	for _, s := range texts {
		m = append(append(m, s...), 0)
	}
	return m
}

func TestSOCKS4(t *testing.T) {
	b := newBastion(t)
	dest := serveTCP(t, echo)
	var dialed []string
	there := b.dial
	b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		dialed = append(dialed, addr)
		if strings.HasPrefix(addr, "denied") {
			return nil, &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "not on the list"}
		}
		return there(ctx, dest)
	}
	l := readyLink(t, b, LinkConfig{})
	addr := startSOCKS(t, l, ProxyConfig{})
	name := [4]byte{0, 0, 0, 1}
	for _, tc := range []struct {
		what string
		msg  []byte
		want byte
		seen string // by the bastion
	}{
		{"address", msg4(1, 80, [4]byte{10, 0, 0, 9}, "ann"), 90, "10.0.0.9:80"},
		{"no address", msg4(1, 80, [4]byte{}, "ann"), 90, "0.0.0.0:80"}, // for the bastion to refuse
		{"no user", msg4(1, 80, [4]byte{10, 0, 0, 9}, ""), 90, "10.0.0.9:80"},
		{"name", msg4(1, 443, name, "", "wiki.corp.example"), 90, "wiki.corp.example:443"},
		{"denied", msg4(1, 443, name, "", "denied"), 91, "denied:443"},
		{"BIND", msg4(2, 443, name, "", "wiki"), 91, ""},
		{"no port", msg4(1, 0, name, "", "wiki"), 91, ""},
		{"no name", msg4(1, 80, name, "", ""), 91, ""},
		{"line ends in the name", msg4(1, 80, name, "", "wiki\nlevel=ERROR"), 91, ""},
	} {
		dialed = nil
		got, c := request4(t, addr, tc.msg, "early")
		if got != tc.want || strings.Join(dialed, " ") != tc.seen {
			t.Errorf("%s: reply %d, bastion saw %q; want %d, %q", tc.what, got, dialed, tc.want, tc.seen)
		}
		if got == 90 {
			early := make([]byte, 5)
			if _, err := io.ReadFull(c, early); err != nil || string(early) != "early" {
				t.Errorf("%s: echo %q, %v", tc.what, early, err)
			}
		} else if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: the connection stays after the reply", tc.what)
		}
		_ = c.Close()
	}

	// It has no password.
	closed := startSOCKS(t, l, ProxyConfig{User: "ann", Password: "secret"})
	dialed = nil
	if got, _ := request4(t, closed, msg4(1, 80, name, "ann", "wiki"), ""); got != 93 || dialed != nil {
		t.Errorf("without a password: reply %d, bastion saw %q", got, dialed)
	}

	// What never ends is ended.
	for what, msg := range map[string][]byte{
		"user": msg4(1, 80, name, strings.Repeat("a", 256)), "name": msg4(1, 80, name, "", strings.Repeat("a", 256)),
	} {
		c := dialTCP(t, addr)
		_, _ = c.Write(msg)
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("long %s: %v, want the end", what, err)
		}
	}
}

// FuzzSOCKS4 checks that what is read as a request is that request, and that nothing behind it is taken.
func FuzzSOCKS4(f *testing.F) {
	f.Add(msg4(1, 80, [4]byte{10, 0, 0, 9}, "ann"))
	f.Add(append(msg4(1, 443, [4]byte{0, 0, 0, 1}, "", "wiki.corp.example"), "early"...))
	f.Add(msg4(2, 0, [4]byte{}, ""))
	f.Add([]byte{5, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		q, err := parseSOCKS4(r)
		rest, readErr := io.ReadAll(r)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil {
			if len(data)-len(rest) > 8+2*(maxSOCKS4Text+1) {
				t.Errorf("%d bytes taken before it was refused", len(data)-len(rest))
			}
			return
		}
		taken := data[:len(data)-len(rest)]
		ip := [4]byte(taken[4:8])
		again := msg4(q.command, q.port, ip, q.user)
		if net.IP(ip[:]).String() != q.host || len(again) < len(taken) {
			again = msg4(q.command, q.port, ip, q.user, q.host)
		}
		if !bytes.Equal(again, taken) {
			t.Errorf("%x was read as %+v", taken, q)
		}
	})
}
