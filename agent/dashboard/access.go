package dashboard

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

const (
	tokenLife   = time.Minute
	sessionLife = 12 * time.Hour
	maxTokens   = 16
	maxSessions = 16
)

// access has the unused tokens and the sessions.
type access struct {
	mu       sync.Mutex
	tokens   []*token   // the oldest first
	sessions []*session // the oldest first
}

// secret is the hash of a random 256-bit value.
type secret [sha256.Size]byte

// newSecret returns a random value and its hash.
func newSecret() (string, secret) {
	text := base64.RawURLEncoding.EncodeToString(randomBytes(32))
	return text, sha256.Sum256([]byte(text))
}

// is reports whether text is the value. It takes constant time.
func (s secret) is(text string) bool {
	sum := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(s[:], sum[:]) == 1
}

// token opens one session, once.
type token struct {
	secret   secret
	request  api.DashboardRequest // the request of its session
	settings config.Settings      // the request's
	page     string               // the file that leads to the dashboard, or ""
	expiry   *time.Timer          // removes the token
}

// session is a browser's session, opened by a token.
type session struct {
	name        string // its cookie's name: a browser may have several sessions, and it has one jar for all ports of an address
	cookie, key secret
	request     api.DashboardRequest
	settings    config.Settings // the request's
	ctx         context.Context // ends with the session
	end         context.CancelFunc
}

// Link returns a URL that admits one browser, once, within a minute. The session acts with r's settings and for r's account.
func (s *Server) Link(r api.DashboardRequest) (api.Dashboard, error) {
	settings, err := config.FromTexts(r.Scope.Settings)
	if err != nil {
		return api.Dashboard{}, err
	}
	text, secret := newSecret()
	t := &token{secret: secret, request: r, settings: settings}
	out := api.Dashboard{URL: "http://" + s.addr + "/#" + text}
	if s.options.Dir != "" {
		page, err := writePage(s.options.Dir, out.URL)
		if err != nil {
			return api.Dashboard{}, fail.New(fail.Other, "write the page that leads to the dashboard", err,
				"see whether "+s.options.Dir+" can be written to, or set another runtime_dir")
		}
		t.page, out.Page = page, page
	}
	s.access.add(t)
	return out, nil
}

// PagePrefix begins the names of the pages that lead a browser to the dashboard. Each goes with its token.
const PagePrefix = "dashboard-"

// writePage writes a page that sends a browser to url. Only the user can read it.
func writePage(dir, url string) (path string, err error) {
	f, err := os.CreateTemp(dir, PagePrefix+"*.html") // with mode 0600
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(
		f,
		`<!doctype html><html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">`+
			`<meta http-equiv="refresh" content="0;url=%[1]s"><title>bastion</title>`+
			`<p><a href="%[1]s">bastion dashboard</a></html>`,
		url,
	)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func (a *access) add(t *token) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tokens) == maxTokens {
		a.tokens[0].forget()
		a.tokens = a.tokens[1:]
	}
	a.tokens = append(a.tokens, t)
	t.expiry = time.AfterFunc(tokenLife, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if i := slices.Index(a.tokens, t); i >= 0 {
			t.forget()
			a.tokens = slices.Delete(a.tokens, i, i+1)
		}
	})
}

// forget stops the token's timer and removes its page.
func (t *token) forget() {
	t.expiry.Stop()
	if t.page != "" {
		_ = os.Remove(t.page)
	}
}

// login turns a token into a session that ends with parent. It returns the session with its cookie and key; nil if the token is
// unknown.
func (a *access) login(parent context.Context, text string) (s *session, cookie, key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.tokens, func(t *token) bool { return t.secret.is(text) })
	if i < 0 {
		return nil, "", ""
	}
	t := a.tokens[i]
	t.forget()
	a.tokens = slices.Delete(a.tokens, i, i+1)
	a.sessions = slices.DeleteFunc(a.sessions, func(s *session) bool { return s.ctx.Err() != nil })
	if len(a.sessions) == maxSessions {
		a.sessions[0].end()
		a.sessions = a.sessions[1:]
	}
	s = &session{name: "bastion-" + hex.EncodeToString(randomBytes(8)), request: t.request, settings: t.settings}
	cookie, s.cookie = newSecret()
	key, s.key = newSecret()
	s.ctx, s.end = context.WithTimeout(parent, sessionLife)
	a.sessions = append(a.sessions, s)
	return s, cookie, key
}

// session returns the session whose cookie and key the request has, or nil.
func (a *access) session(r *http.Request) *session {
	key := r.Header.Get(keyHeader)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.sessions {
		c, err := r.Cookie(s.name)
		if err == nil && s.cookie.is(c.Value) && s.key.is(key) && s.ctx.Err() == nil {
			return s
		}
	}
	return nil
}

// close ends all sessions and forgets all tokens.
func (a *access) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.tokens {
		t.forget()
	}
	for _, s := range a.sessions {
		s.end()
	}
	a.tokens, a.sessions = nil, nil
}
