package image

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// errNoTLS is the error of a request that would show credentials and image to the network.
var errNoTLS = errors.New("the registry does not speak TLS")

// meter is a transport that counts what a push sends and what the registry has already.
type meter struct {
	base  http.RoundTripper
	sizes map[v1.Hash]int64

	mu      sync.Mutex
	report  func(Progress) // nil after stop
	done    Progress
	present map[string]bool // digests
}

func newMeter(base http.RoundTripper, sizes map[v1.Hash]int64, report func(Progress)) *meter {
	m := &meter{base: base, sizes: sizes, report: report, present: map[string]bool{}}
	for _, size := range sizes {
		m.done.Total += size
	}
	return m
}

// RoundTrip sends a request to a registry. The bodies of PATCH requests are blobs, and HEAD requests ask for them.
func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !isLoopback(req.URL.Hostname()) {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, errNoTLS
	}
	if req.Method != http.MethodPatch || req.Body == nil {
		resp, err := m.base.RoundTrip(req)
		if err == nil && req.Method == http.MethodHead && resp.StatusCode == http.StatusOK {
			m.isPresent(path.Base(req.URL.Path))
		}
		return resp, err
	}
	sent := &sentBody{ReadCloser: req.Body, meter: m}
	counted := req.Clone(req.Context())
	counted.Body = sent
	if again := req.GetBody; again != nil { // a connection that the registry had closed: the body is sent anew
		counted.GetBody = func() (io.ReadCloser, error) {
			sent.takeBack()
			body, err := again()
			if err != nil {
				return nil, err
			}
			sent = &sentBody{ReadCloser: body, meter: m}
			return sent, nil
		}
	}
	resp, err := m.base.RoundTrip(counted)
	if err != nil || resp.StatusCode >= http.StatusMultipleChoices {
		sent.takeBack()
	}
	return resp, err
}

// isPresent counts a blob that the registry has. Digests of manifests are not blobs'.
func (m *meter) isPresent(digest string) {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if size, ok := m.sizes[hash]; ok && !m.present[digest] {
		m.present[digest] = true
		m.done.Present += size
		m.tell()
	}
}

func (m *meter) sent(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done.Sent += n
	m.tell()
}

// tell reports the progress. The lock is held, so that reports are in order.
func (m *meter) tell() {
	if m.report != nil {
		m.report(m.done)
	}
}

// finish counts as present what was not sent: of an image whose manifest the registry has, nobody asks for the blobs.
func (m *meter) finish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done.Present = m.done.Total - m.done.Sent
	m.tell()
}

// stop ends the reports. An HTTP transport may still read a body when its request has failed.
func (m *meter) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report = nil
}

// sentBody is a request's body that counts.
type sentBody struct {
	io.ReadCloser
	meter *meter

	mu   sync.Mutex
	n    int64
	dead bool // taken back
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.dead && n > 0 {
		b.n += int64(n)
		b.meter.sent(int64(n))
	}
	return n, err
}

// takeBack uncounts a body that has not arrived.
func (b *sentBody) takeBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.dead {
		b.dead = true
		b.meter.sent(-b.n)
	}
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
