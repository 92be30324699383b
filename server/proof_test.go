package server

import (
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/keys"
)

// secretGrant has a grant with a secret accepted.
func (m *timed) secretGrant(t *testing.T, p *keys.Pair, secret keys.Secret) {
	t.Helper()
	g, err := keys.NewGrant(p.PublicKey(), arn, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	g.Secret = secret
	w, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if reply := m.AddGrant(w); reply.Error != "" {
		t.Fatal(reply.Error)
	}
}

// contact makes an SSH connection, ends it, and returns what it said before it let the client in.
func (m *timed) contact(t *testing.T, signer ssh.Signer) (banner string, session []byte, err error) {
	t.Helper()
	raw, err := m.listener.dial()
	if err != nil {
		t.Fatal(err)
	}
	conn, chans, requests, err := ssh.NewClientConn(raw, "bastion", &ssh.ClientConfig{
		User: keys.UserPending, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: keys.PinnedHostKey(m.HostKey()),
		BannerCallback:  func(text string) error { banner += text; return nil },
	})
	if err != nil {
		return banner, nil, err
	}
	go ssh.DiscardRequests(requests)
	go func() {
		for ch := range chans {
			_ = ch.Reject(ssh.Prohibited, "")
		}
	}()
	_ = conn.Close()
	_ = conn.Wait()
	return banner, conn.SessionID(), nil
}

// unableSigner has a public key and not the private one.
type unableSigner struct{ ssh.Signer }

func (unableSigner) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return nil, errors.New("only the public key is known")
}

// The bastion proves its host key by the grant's secret: to the holder of the granted key, once, and for a minute.
func TestProofOfTheHostKey(t *testing.T) {
	for name, tt := range map[string]struct {
		before func(t *testing.T, m *timed, p *keys.Pair)
		none   bool // no proof comes
	}{
		"at once":           {},
		"in time":           {before: func(_ *testing.T, m *timed, _ *keys.Pair) { m.after(keys.ProofTime - time.Second) }},
		"too late":          {before: func(_ *testing.T, m *timed, _ *keys.Pair) { m.after(keys.ProofTime) }, none: true},
		"a second time":     {before: func(t *testing.T, m *timed, p *keys.Pair) { _, _, _ = m.contact(t, p.Signer()) }, none: true},
		"after a renewal":   {before: func(t *testing.T, m *timed, p *keys.Pair) { m.AddGrant(word(t, p, time.Hour)) }, none: true},
		"after another key": {before: func(t *testing.T, m *timed, _ *keys.Pair) { m.grant(t) }},
		"after one without the private key": {before: func(t *testing.T, m *timed, p *keys.Pair) {
			if banner, _, err := m.contact(t, unableSigner{p.Signer()}); err == nil || banner != "" {
				t.Errorf("it got %q, %v", banner, err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startTimed(t, Config{})
				p, secret := pair(t), keys.NewSecret()
				m.secretGrant(t, p, secret)
				if tt.before != nil {
					tt.before(t, m, p)
				}
				banner, session, err := m.contact(t, p.Signer())
				if err != nil {
					t.Fatal(err)
				}
				c := keys.Contact{Session: session, HostKey: m.HostKey(), ClientKey: p.PublicKey()}
				switch {
				case tt.none && banner != "":
					t.Errorf("the bastion said %q", banner)
				case !tt.none && secret.Check(banner, c) != nil:
					t.Errorf("the bastion said %q, which is no proof", banner)
				}
				text, _ := secret.MarshalText()
				if log := m.log.String(); strings.Contains(log, string(text)) || strings.Contains(log, strings.TrimSpace(banner)) && banner != "" {
					t.Errorf("the audit log shows the secret:\n%s", log)
				}
			})
		})
	}
}

// The secret is forgotten, not only ignored, once it has been used or is old.
func TestSecretIsForgotten(t *testing.T) {
	held := func(m *timed) (n int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for g := range m.slots {
			if !g.secret.IsZero() || !g.grant.Secret.IsZero() {
				n++
			}
		}
		return n
	}
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{})
		used, unused := pair(t), pair(t)
		m.secretGrant(t, used, keys.NewSecret())
		m.secretGrant(t, unused, keys.NewSecret())
		if _, _, err := m.contact(t, used.Signer()); err != nil {
			t.Fatal(err)
		}
		if n := held(m); n != 1 {
			t.Errorf("%d secrets are held after one of two was used", n)
		}
		m.after(keys.ProofTime)
		if n := held(m); n != 0 {
			t.Errorf("%d secrets are held after their time", n)
		}
	})
}

// What clients assume of a bastiond that they do not know yet are its defaults.
func TestDefaultPorts(t *testing.T) {
	for address, want := range map[string]int{DefaultListen: keys.DefaultPorts.SSH, DefaultBondListen: keys.DefaultPorts.Bond} {
		_, port, err := net.SplitHostPort(address)
		if err != nil || port != strconv.Itoa(want) {
			t.Errorf("%s: clients try %d", address, want)
		}
	}
}

// A refused word is not repeated, in the reply or in the log: it may have a secret in it.
func TestRefusedWordIsNotShown(t *testing.T) {
	b := start(t, Config{})
	secret := keys.NewSecret()
	text, _ := secret.MarshalText()
	for _, json := range []string{
		`{"secret":"` + string(text) + `"}`,
		`{"secret":"` + string(text) + `x"}`,
	} {
		reply := b.AddGrant("v2." + base64.RawURLEncoding.EncodeToString([]byte(json)))
		if reply.Code != keys.CodeInvalid || strings.Contains(reply.Error, string(text)) {
			t.Errorf("%s: %+v", json, reply)
		}
	}
	if log := b.log.String(); strings.Contains(log, string(text)) {
		t.Errorf("the audit log shows the secret:\n%s", log)
	}
}
