package server

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
)

const idleConn = 15 * time.Minute

// openIdle opens a channel and returns its requests too.
func openIdle(t *testing.T, c *ssh.Client) (ssh.Channel, <-chan *ssh.Request) {
	t.Helper()
	ch, requests, err := c.OpenChannel(directTCPIP, ssh.Marshal(openDirect{Host: "10.0.0.1", Port: 5432}))
	if err != nil {
		t.Fatal(err)
	}
	return ch, requests
}

// A connection that carries nothing for idle-conn is ended cleanly, with the reason; bytes in either direction, and after one
// side's end too, keep it.
func TestIdleConn(t *testing.T) {
	for name, tt := range map[string]struct {
		traffic func(ch ssh.Channel, far net.Conn)
		kept    bool
	}{
		"nothing": {traffic: func(ssh.Channel, net.Conn) {}},
		"up":      {traffic: func(ch ssh.Channel, _ net.Conn) { _, _ = ch.Write([]byte("x")) }, kept: true},
		"down":    {traffic: func(_ ssh.Channel, far net.Conn) { _, _ = far.Write([]byte("x")) }, kept: true},
		"down after the client's end": {traffic: func(ch ssh.Channel, far net.Conn) {
			_ = ch.CloseWrite()
			_, _ = far.Write([]byte("x"))
		}, kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				far := memConn{in: newMemHalf(), out: newMemHalf()}
				m := startTimed(t, Config{IdleConn: idleConn, Allow: mustAllow(t, "10.0.0.1:5432"), Dial: func(context.Context, string, string) (net.Conn, error) { return far, nil }})
				c, _ := m.connect(t, m.grant(t))
				ch, requests := openIdle(t, c)
				told := make(chan string, 1)
				go func() {
					for r := range requests {
						if r.Type == RequestEnded {
							told <- string(r.Payload)
						}
					}
				}()
				go func() { _, _ = io.Copy(io.Discard, ch); _ = ch.Close() }()
				opened := time.Since(m.began)
				m.after(opened + idleConn/2)
				tt.traffic(ch, memConn{in: far.out, out: far.in})
				if m.after(opened + idleConn - time.Second); m.log.count(t, audit.Close) != 0 {
					t.Fatalf("it was ended early:\n%s", m.log)
				}
				if m.after(opened + idleConn + time.Second); tt.kept && m.log.count(t, audit.Close) != 0 {
					t.Fatalf("it was ended in spite of traffic:\n%s", m.log)
				}
				m.after(opened + 2*idleConn)
				r := m.log.wait(t, audit.Close, 1)
				if r.Reason != "idle for 15m" || r.Result == audit.Failed {
					t.Errorf("audited as %+v", r)
				}
				if got := <-told; got != "idle for 15m" {
					t.Errorf("the client was told %q", got)
				}
			})
		})
	}
}

// A client without a connection is told and ended too; one that has a connection with traffic is not.
func TestIdleClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{IdleConn: idleConn, IdleStop: -1})
		raw, err := m.listener.dial()
		if err != nil {
			t.Fatal(err)
		}
		conn, chans, requests, err := ssh.NewClientConn(raw, "bastion", m.clientConfig(m.grant(t)))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for ch := range chans {
				_ = ch.Reject(ssh.Prohibited, "")
			}
		}()
		told := make(chan bool, 1)
		go func() {
			idle := false
			for r := range requests {
				idle = idle || r.Type == RequestIdle
				_ = r.Reply(false, nil)
			}
			told <- idle
		}()
		began := time.Since(m.began)
		if m.after(began + idleConn - time.Second); m.log.count(t, audit.Disconnect) != 0 {
			t.Fatalf("it was ended early:\n%s", m.log)
		}
		m.after(began + idleConn + time.Second)
		if r := m.log.wait(t, audit.Disconnect, 1); r.Reason != "idle for 15m" {
			t.Errorf("audited as %+v", r)
		}
		if !<-told {
			t.Error("the client was not told")
		}
		_ = conn.Wait()
	})
}

func TestIdleConnIsChecked(t *testing.T) {
	for _, d := range []time.Duration{-time.Second, time.Nanosecond, LeastIdleConn - 1} {
		_, err := newServer(Config{IdleConn: d})
		if _, ok := errors.AsType[*ConfigError](err); !ok {
			t.Errorf("%v: %v", d, err)
		}
	}
}
