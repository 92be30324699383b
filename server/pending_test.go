package server

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/keys"
)

// A client that announces its grant waits for it; the server refuses another one at once. The wait is bounded. It ends for a
// refusal other than a missing grant, but not for other keys' grants.
func TestPendingGrant(t *testing.T) {
	for _, tt := range []struct {
		name    string
		user    string
		granted time.Duration // when its grant comes; 0: never
		ends    time.Duration // when the handshake ends
		ok      bool
	}{
		{"it comes", keys.UserPending, 3 * time.Second, 3 * time.Second, true},
		{"it comes too late", keys.UserPending, pendingTime + time.Second, pendingTime, false},
		{"it never comes", keys.UserPending, 0, pendingTime, false},
		{"not announced", "ada", 3 * time.Second, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startTimed(t, Config{})
				p := pair(t)
				if tt.granted > 0 {
					time.AfterFunc(tt.granted, func() { m.AddGrant(word(t, p, time.Hour)) })
				}
				time.AfterFunc(time.Second, func() { m.grant(t) }) // another key's
				raw, err := m.listener.dial()
				if err != nil {
					t.Fatal(err)
				}
				config := m.clientConfig(p)
				config.User = tt.user
				conn, chans, requests, err := ssh.NewClientConn(raw, "bastion", config)
				if took := time.Since(m.began); took != tt.ends {
					t.Errorf("the handshake took %v, want %v", took, tt.ends)
				}
				if (err == nil) != tt.ok {
					t.Errorf("handshake: %v\n%s", err, m.log)
				}
				if err != nil {
					m.after(pendingTime + 2*time.Second) // past the grants
					return
				}
				go ssh.DiscardRequests(requests)
				go func() {
					for ch := range chans {
						_ = ch.Reject(ssh.Prohibited, "")
					}
				}()
				_ = conn.Close()
			})
		})
	}
}

// A server that stops does not wait for grants.
func TestPendingGrantEndsWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{Drain: time.Second})
		config := m.clientConfig(pair(t))
		config.User = keys.UserPending
		raw, err := m.listener.dial()
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { _ = m.Close() })
		if _, _, _, err := ssh.NewClientConn(raw, "bastion", config); err == nil {
			t.Error("let in without a grant")
		}
		if took := time.Since(m.began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
