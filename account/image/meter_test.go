package image

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// What has not arrived is not counted: of a blob that the registry refuses, of one that is cut, and of one that the transport begins
// anew on another connection.
func TestMeterTakesBack(t *testing.T) {
	const blob = "0123456789"
	half := func(body io.Reader) {
		if _, err := io.CopyN(io.Discard, body, 5); err != nil {
			t.Error(err)
		}
	}
	for name, tt := range map[string]struct {
		base transportFunc
		want int64
	}{
		"refused": {func(r *http.Request) (*http.Response, error) {
			half(r.Body)
			return answer(r, http.StatusForbidden, "")
		}, 0},
		"cut": {func(r *http.Request) (*http.Response, error) { half(r.Body); return nil, io.ErrUnexpectedEOF }, 0},
		"anew": {func(r *http.Request) (*http.Response, error) {
			half(r.Body)
			again, err := r.GetBody()
			if err == nil {
				_, err = io.Copy(io.Discard, again)
			}
			return must(answer(r, http.StatusAccepted, ""))(t), err
		}, 10},
		"accepted": {func(r *http.Request) (*http.Response, error) {
			_, err := io.Copy(io.Discard, r.Body)
			return must(answer(r, http.StatusAccepted, ""))(t), err
		}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			var last Progress
			var most int64
			m := newMeter(tt.base, map[v1.Hash]int64{{Algorithm: "sha256", Hex: "0"}: 10}, func(p Progress) {
				last, most = p, max(most, p.Sent)
			})
			req := must(http.NewRequestWithContext(t.Context(), http.MethodPatch, "https://registry.example.com/v2/x", strings.NewReader(blob)))(t)
			resp, err := m.RoundTrip(req)
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			if resp != nil {
				resp.Body.Close()
			}
			if last != (Progress{Total: 10, Sent: tt.want}) || most < 5 || most > 10 {
				t.Errorf("at last %+v, at most %d", last, most)
			}
		})
	}
}

// A transport may read a body after it has given up. That does not count, and after the end nobody hears of anything.
func TestMeterStops(t *testing.T) {
	var body io.ReadCloser
	var last Progress
	m := newMeter(transportFunc(func(r *http.Request) (*http.Response, error) {
		body = r.Body
		return nil, io.ErrUnexpectedEOF
	}), nil, func(p Progress) { last = p })
	req := must(http.NewRequestWithContext(t.Context(), http.MethodPatch, "https://registry.example.com/v2/x", strings.NewReader("blob")))(t)
	if _, err := m.RoundTrip(req); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if text := must(io.ReadAll(body))(t); string(text) != "blob" || last.Sent != 0 {
		t.Errorf("%q, %+v", text, last)
	}
	m.stop()
	if m.sent(4); last.Sent != 0 {
		t.Errorf("%+v after the end", last)
	}
}

// A blob that the registry has counts once, and nothing else that the registry is asked for counts.
func TestMeterCountsWhatIsThere(t *testing.T) {
	known, other := strings.Repeat("0", 64), strings.Repeat("1", 64)
	status := http.StatusOK
	var last Progress
	m := newMeter(transportFunc(func(r *http.Request) (*http.Response, error) { return answer(r, status, "") }),
		map[v1.Hash]int64{{Algorithm: "sha256", Hex: known}: 10}, func(p Progress) { last = p })
	ask := func(path string, want int64) {
		t.Helper()
		req := must(http.NewRequestWithContext(t.Context(), http.MethodHead, "https://registry.example.com/v2/bastion/"+path, http.NoBody))(t)
		must(m.RoundTrip(req))(t).Body.Close()
		if last.Present != want {
			t.Errorf("after %s: %+v", path, last)
		}
	}
	ask("manifests/1", 0)
	ask("manifests/sha256:"+other, 0)
	status = http.StatusNotFound
	ask("blobs/sha256:"+known, 0)
	status = http.StatusOK
	ask("blobs/sha256:"+known, 10)
	ask("blobs/sha256:"+known, 10)
}

// transportFunc is a transport that has the request's body.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
