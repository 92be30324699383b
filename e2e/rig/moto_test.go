package rig

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

// late answers before it has read the request.
type late struct{ read chan string }

func (l late) RoundTrip(req *http.Request) (*http.Response, error) {
	answered := req.Context().Done()
	go func() {
		<-answered
		body, err := io.ReadAll(req.Body)
		if err != nil {
			body = []byte(err.Error())
		}
		l.read <- string(body)
	}()
	return &http.Response{Body: http.NoBody}, nil
}

// closing is a body that cannot be read once it is closed, as the SDK's.
type closing struct{ io.Reader }

func (c *closing) Close() error {
	c.Reader = strings.NewReader("")
	return nil
}

// A request's body can be read after its sender has closed it.
func TestOwnBody(t *testing.T) {
	l := late{make(chan string)}
	for _, want := range []string{"", "Action=DescribeVpcs"} {
		body := &closing{strings.NewReader(want)}
		ctx, answered := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1", body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = int64(len(want))
		resp, err := ownBody{l}.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = resp.Body.Close(), body.Close()
		answered()
		if got := <-l.read; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
