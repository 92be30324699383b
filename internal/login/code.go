package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
)

const (
	secretBytes = 32 // of a state and of a verifier; base64 makes 43 characters of them, RFC 7636's least
	maxQuery    = 8 << 10

	// pageTimeout bounds one request of the browser, which waits while the code becomes a token.
	pageTimeout = 2 * time.Minute
	// pageEnd is how long the last page may take to leave.
	pageEnd = time.Second
)

// callback is what the browser brings.
type callback struct {
	code  string
	fault string        // an OAuth error code and its description, instead of a code
	done  chan struct{} // closed once the outcome is known
	err   error         // of the login; guarded by done
}

// codeFlow is one login by an authorization code.
type codeFlow struct {
	host            string // of the listener: the only Host that the browser may name
	state, verifier string
	answers         chan *callback
	taken           atomic.Bool // the browser has brought its answer
}

func newCodeFlow(host string) *codeFlow {
	return &codeFlow{host: host, state: randomText(), verifier: randomText(), answers: make(chan *callback, 1)}
}

// randomText returns a random value of secretBytes bytes.
func randomText() string {
	b := make([]byte, secretBytes)
	_, _ = rand.Read(b) // it never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// challenge returns the verifier's hash, which the page gets.
func (f *codeFlow) challenge() string {
	sum := sha256.Sum256([]byte(f.verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// redirect returns where the page sends the browser.
func (f *codeFlow) redirect() string { return "http://" + f.host + callbackPath }

// ServeHTTP answers the browser: only at the callback's path, under the listener's own address, with this login's state, and once.
func (f *codeFlow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != callbackPath || r.Method != http.MethodGet {
		http.NotFound(w, r)
		return
	}
	if r.Host != f.host || len(r.URL.RawQuery) > maxQuery {
		show(w, http.StatusBadRequest, pageForeign)
		return
	}
	query := r.URL.Query()
	got := &callback{code: query.Get("code"), fault: query.Get("error"), done: make(chan struct{})}
	state := query.Get("state")
	if subtle.ConstantTimeCompare([]byte(state), []byte(f.state)) != 1 || got.code == "" && got.fault == "" {
		show(w, http.StatusBadRequest, pageForeign)
		return
	}
	if got.fault != "" {
		got.code = ""
		if why := query.Get("error_description"); why != "" {
			got.fault += ": " + why
		}
	}
	if f.taken.Swap(true) {
		show(w, http.StatusGone, pageUsed)
		return
	}
	f.answers <- got
	select {
	case <-got.done:
	case <-r.Context().Done():
		return
	}
	if got.err != nil {
		show(w, http.StatusForbidden, pageFailed(got.err))
		return
	}
	show(w, http.StatusOK, pageDone)
}

// byCode signs in by an authorization code. ln is on the loopback interface; byCode closes it.
func (l *Login) byCode(ctx context.Context, c *client, ln net.Listener) (Token, error) {
	f := newCodeFlow(ln.Addr().String())
	server := &http.Server{Handler: f, ReadHeaderTimeout: pageTimeout, ReadTimeout: pageTimeout, MaxHeaderBytes: 4 * maxQuery}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) }) // it ends by Shutdown or Close
	defer serving.Wait()
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageEnd)
		defer cancel()
		_ = errors.Join(server.Shutdown(end), server.Close()) // the browser may have gone
	}()
	by, err := c.register(ctx, false)
	if err != nil {
		return Token{}, err
	}
	page, err := c.authorizeURL(ctx)
	if err != nil {
		return Token{}, err
	}
	query := page.Query()
	for key, value := range map[string]string{
		"response_type": "code", "client_id": by.ID, "redirect_uri": f.redirect(), "state": f.state, "code_challenge_method": "S256",
		"code_challenge": f.challenge(), "scopes": strings.Join(c.scopes(), " "),
	} {
		query.Set(key, value)
	}
	page.RawQuery = query.Encode()
	l.Tell(Prompt{URL: page.String()})
	if err := l.openPage(ctx, page.String()); err != nil {
		l.note("no browser was started (%s): open the address in a browser on this machine", err)
	}
	return l.awaitCode(ctx, c, f, by)
}

// awaitCode waits for the browser's answer, and turns the code into a token. The browser shows the outcome.
func (l *Login) awaitCode(ctx context.Context, c *client, f *codeFlow, by Registration) (Token, error) {
	late := time.NewTimer(l.patience())
	defer late.Stop()
	var got *callback
	select {
	case got = <-f.answers:
	case <-late.C:
		return Token{}, fail.New(fail.Timeout, "", errors.New("the browser brought no answer within "+l.patience().String()),
			"try again and finish the login in the browser; or bastion login --no-browser")
	case <-ctx.Done():
		return Token{}, context.Cause(ctx)
	}
	defer close(got.done)
	if got.fault != "" {
		got.err = refused(got.fault)
		return Token{}, got.err
	}
	redirect := f.redirect()
	made, err := c.oidc.CreateToken(ctx, &ssooidc.CreateTokenInput{
		ClientId: &by.ID, ClientSecret: &by.Secret, GrantType: aws.String(grantCode), Code: &got.code, CodeVerifier: &f.verifier,
		RedirectUri: &redirect,
	})
	if err != nil {
		got.err = err
		return Token{}, err
	}
	t, err := c.token(by, Token{}, made)
	got.err = err
	return t, err
}

// refused returns the error of a login that the user or Identity Center has refused.
func refused(why string) error {
	return fail.New(fail.Credentials, "", errors.New("the login was refused: "+printable.OneLine(why)),
		"try again and allow the access in the browser; or ask your administrator for access to the application")
}
