package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/words"
)

// blobCount is the number of layers and configurations in testIndex: of two images and two attestations.
const blobCount = 8

// fakeRegistry is a registry that can be told to refuse. It records what is sent to it.
type fakeRegistry struct {
	*httptest.Server
	handler http.Handler

	mu     sync.Mutex
	refuse func(w http.ResponseWriter, r *http.Request) bool // whether it has answered r in the registry's place
	bodies map[string]int                                    // blobs that arrived, by digest
	puts   int                                               // of manifests
	begun  int                                               // PATCH requests
}

func newRegistry(t *testing.T) *fakeRegistry {
	t.Helper()
	r := &fakeRegistry{handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), bodies: map[string]int{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	refuse := f.refuse
	if r.Method == http.MethodPatch {
		f.begun++
	}
	f.mu.Unlock()
	if refuse != nil && refuse(w, r) {
		return
	}
	f.handler.ServeHTTP(w, r)
	if r.Method == http.MethodPut {
		f.mu.Lock()
		defer f.mu.Unlock()
		if strings.Contains(r.URL.Path, "/manifests/") {
			f.puts++
		} else {
			f.bodies[r.URL.Query().Get("digest")]++
		}
	}
}

// when makes the registry answer requests as refuse does.
func (f *fakeRegistry) when(refuse func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = refuse
}

// nth tells whether a request is the n-th PATCH of a blob, counted from 1. ServeHTTP has counted it.
func (f *fakeRegistry) nth(r *http.Request, n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return r.Method == http.MethodPatch && f.begun == n
}

func (f *fakeRegistry) ref() string { return strings.TrimPrefix(f.URL, "http://") + "/bastion:1" }

// host is the registry's as it is in messages.
func (f *fakeRegistry) host() string { return strings.TrimPrefix(f.URL, "http://") }

// arrived returns the blobs that the registry was sent, and how often each was.
func (f *fakeRegistry) arrived() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.bodies)
}

func noPause(int) time.Duration { return 0 }

// pull returns the index that a registry has.
func pull(t *testing.T, ref string, options ...remote.Option) v1.ImageIndex {
	t.Helper()
	own := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(own.CloseIdleConnections)
	return must(remote.Index(must(name.NewTag(ref))(t), append(options, remote.WithTransport(own))...))(t)
}

// wantBlobs makes sure that all blobs have arrived, and that those that had arrived before were not sent again. One that was under
// way when another failed may have arrived without the client's knowing, so that it comes again.
func wantBlobs(t *testing.T, r *fakeRegistry, before map[string]int) {
	t.Helper()
	arrived := r.arrived()
	if len(arrived) != blobCount {
		t.Errorf("%d blobs arrived, not %d", len(arrived), blobCount)
	}
	for digest := range before {
		if n := arrived[digest]; n != 1 {
			t.Errorf("%s was sent %d times", digest, n)
		}
	}
}

func TestPush(t *testing.T) {
	r := newRegistry(t)
	index := testIndex(t)
	var last Progress
	reports := 0
	o := Options{Progress: func(p Progress) {
		if p.Total != last.Total && reports > 0 || p.Sent < last.Sent || p.Present < last.Present {
			t.Errorf("after %+v came %+v", last, p)
		}
		last, reports = p, reports+1
	}}
	if err := Push(t.Context(), index, r.ref(), o); err != nil {
		t.Fatal(err)
	}
	got := pull(t, r.ref())
	if a, b := must(index.Digest())(t), must(got.Digest())(t); a != b {
		t.Errorf("the registry has %s, not %s", b, a)
	}
	checkIndex(t, got)
	all := r.arrived()
	wantBlobs(t, r, all)
	if r.puts != 5 {
		t.Errorf("%d manifests", r.puts)
	}
	if last.Present != 0 || last.Sent != last.Total || last.Total < 1<<20 || reports < blobCount {
		t.Errorf("%d reports of progress, at last %+v", reports, last)
	}

	// Again: there is nothing to send.
	last, reports = Progress{}, 0
	if err := Push(t.Context(), index, r.ref(), o); err != nil {
		t.Fatal(err)
	}
	wantBlobs(t, r, all)
	if last.Sent != 0 || last.Present != last.Total || last.Total == 0 || r.puts != 5 || r.begun != blobCount {
		t.Errorf("the second time: %+v, %d manifests, %d blobs begun", last, r.puts, r.begun)
	}
}

// A push that fails at a blob for good, and is called again, sends what is missing and nothing else.
func TestPushGoesOn(t *testing.T) {
	for n := 1; n <= blobCount; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := newRegistry(t)
			r.when(func(w http.ResponseWriter, req *http.Request) bool {
				if r.nth(req, n) {
					w.WriteHeader(http.StatusForbidden)
					return true
				}
				return false
			})
			err := Push(t.Context(), testIndex(t), r.ref(), Options{pause: noPause})
			if fail.KindOf(err) != fail.Denied {
				t.Fatalf("%v", err)
			}
			before := r.arrived()
			r.when(nil)
			var last Progress
			if err := Push(t.Context(), testIndex(t), r.ref(), Options{Progress: func(p Progress) { last = p }}); err != nil {
				t.Fatal(err)
			}
			wantBlobs(t, r, before)
			checkIndex(t, pull(t, r.ref()))
			if len(before) > 0 && last.Present == 0 || last.Present+last.Sent != last.Total {
				t.Errorf("with %d blobs there before: %+v", len(before), last)
			}
		})
	}
}

// One push outlasts failures that pass, at any blob, at a manifest and at the first word.
func TestPushRepeats(t *testing.T) {
	cut := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	for name, failure := range map[string]func(http.ResponseWriter){"cut": cut, "503": status(503), "429": status(429)} {
		at := map[string]func(*fakeRegistry, *http.Request) bool{
			"hello": func(_ *fakeRegistry, r *http.Request) bool { return r.URL.Path == "/v2/" },
			"manifest": func(_ *fakeRegistry, r *http.Request) bool {
				return r.Method == http.MethodPut && path.Base(r.URL.Path) == "1"
			},
			"commit": func(_ *fakeRegistry, r *http.Request) bool {
				return r.Method == http.MethodPut && r.URL.Query().Has("digest")
			},
		}
		for n := 1; n <= blobCount; n++ {
			at[fmt.Sprint("blob ", n)] = func(f *fakeRegistry, r *http.Request) bool { return f.nth(r, n) }
		}
		for where, is := range at {
			t.Run(name+" at "+where, func(t *testing.T) {
				r := newRegistry(t)
				var first sync.Once
				var before map[string]int
				r.when(func(w http.ResponseWriter, req *http.Request) (failed bool) {
					if is(r, req) {
						first.Do(func() {
							failed, before = true, r.arrived()
							_, _ = io.CopyN(io.Discard, req.Body, 100)
							failure(w)
						})
					}
					return failed
				})
				var last Progress
				o := Options{pause: noPause, Progress: func(p Progress) { last = p }}
				if err := Push(t.Context(), testIndex(t), r.ref(), o); err != nil {
					t.Fatal(err)
				}
				wantBlobs(t, r, before)
				if last.Present+last.Sent != last.Total {
					t.Errorf("progress %+v", last)
				}
			})
		}
	}
}

// Every refusal is told with the operation, the registry's answer and the next step. Those that may pass are tried again before.
func TestRefusedPush(t *testing.T) {
	most := largest(must(blobSizes(testIndex(t)))(t))
	body := func(code, message string) string {
		return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message)
	}
	for name, tt := range map[string]struct {
		status      int
		body        string
		kind        fail.Kind
		text, next  string // in the message and the next step; HOST is the registry
		attempts    int
		whereMethod string // the method that fails; PATCH by default
	}{
		"wrong password": {401, body("UNAUTHORIZED", "authentication required"), fail.Credentials, "answered 401 Unauthorized to PATCH", "get another password for HOST", 1, ""},
		"no permission":  {403, body("DENIED", "requested access is denied"), fail.Denied, "DENIED: requested access is denied", "permission to push to bastion", 1, ""},
		"no repository":  {404, body("NAME_UNKNOWN", "unknown"), fail.Usage, "answered 404 Not Found", "create the repository bastion in HOST", 1, http.MethodPost},
		"immutable tag": {
			400, body("TAG_INVALID", "The image tag '1' already exists in the 'bastion' repository and cannot be overwritten because the repository is immutable."),
			fail.Usage, "because the repository is immutable", "push under another tag", 1, http.MethodPut,
		},
		"too large":   {413, "<html><h1>413 Request Entity Too Large</h1></html>", fail.Other, "answered 413 Request Entity Too Large", "or at a proxy before it, to " + words.Bytes(float64(most)), 1, ""},
		"throttled":   {429, body("TOOMANYREQUESTS", "slow down"), fail.Other, "slow down", "push again later", attempts, ""},
		"broken":      {500, "", fail.Other, "answered 500 Internal Server Error", "push again later", attempts, ""},
		"overloaded":  {503, "<html>try later</html>", fail.Other, "answered 503 Service Unavailable", "push again later", attempts, ""},
		"no registry": {405, "", fail.Other, "answered 405 Method Not Allowed", "check whether HOST is a container registry", 1, ""},
		"cut":         {0, "", fail.Other, "/v2/", "check the network", attempts, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			var hellos int
			method := tt.whereMethod
			if method == "" {
				method = http.MethodPatch
			}
			r.when(func(w http.ResponseWriter, req *http.Request) bool {
				if req.URL.Path == "/v2/" {
					r.mu.Lock()
					hellos++
					r.mu.Unlock()
				}
				if req.Method != method {
					return false
				}
				if tt.status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
				return true
			})
			err := Push(t.Context(), testIndex(t), r.ref(), Options{pause: noPause})
			if err == nil {
				t.Fatal("it succeeded")
			}
			next := strings.ReplaceAll(tt.next, "HOST", r.host())
			if got := err.Error(); !strings.HasPrefix(got, "push the image of bastiond to "+r.ref()+": ") || !strings.Contains(got, tt.text) ||
				strings.Contains(got, "<html>") || strings.Contains(got, "\n") {
				t.Errorf("error %q, want one with %q", got, tt.text)
			}
			if fail.KindOf(err) != tt.kind || !strings.Contains(fail.NextOf(err), next) {
				t.Errorf("kind %v, next %q, want %v, %q", fail.KindOf(err), fail.NextOf(err), tt.kind, next)
			}
			if hellos != tt.attempts {
				t.Errorf("%d attempts, not %d", hellos, tt.attempts)
			}
		})
	}
}

// canned answers every request to a registry that exists in the test alone.
type canned func(*http.Request) (*http.Response, error)

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body.Close()
	}
	return c(r)
}

func answer(r *http.Request, status int, body string) (*http.Response, error) {
	return &http.Response{
		StatusCode: status, Request: r, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
	}, nil
}

// ECR's refusals in its own words.
func TestRefusedByECR(t *testing.T) {
	for name, tt := range map[string]struct {
		message string
		kind    fail.Kind
		next    string
	}{
		"expired": {"Your authorization token has expired. Reauthenticate and try again.", fail.Credentials, "ECR's are valid for 12 hours"},
		"denied": {
			"User: arn:aws:sts::000000000000:assumed-role/dev/ada is not authorized to perform: ecr:InitiateLayerUpload on resource: " +
				"arn:aws:ecr:eu-central-1:000000000000:repository/bastion because no identity-based policy allows the ecr:InitiateLayerUpload action",
			fail.Denied, `{"Effect":"Allow","Action":"ecr:InitiateLayerUpload","Resource":"arn:aws:ecr:eu-central-1:000000000000:repository/bastion"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			transport := canned(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path == "/v2/" {
					return answer(r, http.StatusOK, "")
				}
				return answer(r, http.StatusForbidden, fmt.Sprintf(`{"errors":[{"code":"DENIED","message":%q}]}`, tt.message))
			})
			err := Push(t.Context(), testIndex(t), "000000000000.dkr.ecr.eu-central-1.amazonaws.com/bastion:1", Options{Transport: transport})
			if fail.KindOf(err) != tt.kind || !strings.Contains(fail.NextOf(err), tt.next) || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("%v: %v, next %q, want %q", fail.KindOf(err), err, fail.NextOf(err), tt.next)
			}
		})
	}
}

// A password goes to no other machine without TLS, though the library would.
func TestPushNeedsTLS(t *testing.T) {
	var seen []string
	var mu sync.Mutex
	transport := canned(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.URL.String())
		return nil, errors.New("no TLS here")
	})
	o := Options{Transport: transport, Auth: &authn.Basic{Username: "AWS", Password: "secret"}}
	err := Push(t.Context(), testIndex(t), "10.0.0.1:5000/bastion:1", o)
	if !errors.Is(err, errNoTLS) || !strings.Contains(fail.NextOf(err), "give 10.0.0.1:5000 a certificate") {
		t.Errorf("%v, next %q", err, fail.NextOf(err))
	}
	if want := []string{"https://10.0.0.1:5000/v2/"}; !slices.Equal(seen, want) {
		t.Errorf("requests %q, want %q", seen, want)
	}
}

func TestPushByPassword(t *testing.T) {
	r := newRegistry(t)
	r.when(func(w http.ResponseWriter, req *http.Request) bool {
		if user, password, _ := req.BasicAuth(); user == "AWS" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if err := Push(t.Context(), testIndex(t), r.ref(), Options{Auth: &authn.Basic{Username: "AWS", Password: "secret"}}); err != nil {
		t.Fatal(err)
	}
	for name, auth := range map[string]authn.Authenticator{"none": nil, "a wrong one": &authn.Basic{Username: "AWS", Password: "guess"}} {
		err := Push(t.Context(), testIndex(t), r.ref(), Options{Auth: auth})
		if fail.KindOf(err) != fail.Credentials || strings.Contains(err.Error(), "guess") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPushToUnknownCA(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}}
	err := Push(t.Context(), testIndex(t), "registry.example.com/bastion:1", Options{Transport: transport})
	if err == nil || !strings.Contains(fail.NextOf(err), "add the CA certificate of registry.example.com") {
		t.Errorf("%v, next %q", err, fail.NextOf(err))
	}
}

func TestPushToNowhere(t *testing.T) {
	for _, ref := range []string{"bastion", "bastion:1", "host/bastion", "host/Bastion:1", "host/bastion@sha256:" + strings.Repeat("0", 64)} {
		err := Push(t.Context(), testIndex(t), ref, Options{Transport: canned(func(*http.Request) (*http.Response, error) {
			t.Errorf("%s: a request", ref)
			return nil, io.EOF
		})})
		if fail.KindOf(err) != fail.Usage || !strings.Contains(fail.NextOf(err), "HOST/REPOSITORY:TAG") {
			t.Errorf("%s: %v, next %q", ref, err, fail.NextOf(err))
		}
	}
}

// The end of the context ends a push at once: while a blob is under way, and between attempts.
func TestPushEndsWithItsContext(t *testing.T) {
	t.Run("in a blob", func(t *testing.T) {
		r := newRegistry(t)
		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan struct{})
		r.when(func(_ http.ResponseWriter, req *http.Request) bool {
			if req.Method != http.MethodPatch {
				return false
			}
			cancel()
			<-returned
			return true
		})
		err := Push(ctx, testIndex(t), r.ref(), Options{})
		close(returned)
		if !errors.Is(err, context.Canceled) || fail.KindOf(err) != fail.Other || !strings.Contains(fail.NextOf(err), "push again") {
			t.Errorf("%v, next %q", err, fail.NextOf(err))
		}
	})
	t.Run("between attempts", func(t *testing.T) {
		r := newRegistry(t)
		r.when(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		})
		ctx, cancel := context.WithCancel(t.Context())
		err := Push(ctx, testIndex(t), r.ref(), Options{pause: func(int) time.Duration {
			cancel()
			return time.Hour
		}})
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "503 Service Unavailable") {
			t.Errorf("%v", err)
		}
	})
	t.Run("at the deadline", func(t *testing.T) {
		r := newRegistry(t)
		r.when(func(_ http.ResponseWriter, req *http.Request) bool {
			<-req.Context().Done()
			return true
		})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := Push(ctx, testIndex(t), r.ref(), Options{}); fail.KindOf(err) != fail.Timeout {
			t.Errorf("%v", err)
		}
	})
}
