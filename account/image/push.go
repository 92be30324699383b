package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

const (
	attempts   = 4
	firstPause = time.Second // between attempts; it doubles
	mostPause  = 10 * time.Second

	// answerTimeout is the longest that a registry may take to answer a request that it has whole.
	answerTimeout = time.Minute
)

// Options are what a push needs besides the image. Their zero value is valid.
type Options struct {
	Auth      authn.Authenticator // to the registry; nil for a registry that knows no users
	Transport http.RoundTripper   // nil for one of Push's own, with the environment's HTTP proxy
	Progress  func(Progress)      // called whenever there is progress, one call at a time; may be nil

	pause func(n int) time.Duration // after the n-th failed attempt, counted from 0; nil for the usual one
}

// Progress is how far a push is, in bytes of layers and configurations. Total is Present and Sent together when all are done.
type Progress struct {
	Total   int64
	Present int64 // the registry had these already
	Sent    int64 // of blobs that are on their way, or have arrived
}

// Push sends an index and all its images to a registry, under a tag: HOST/REPOSITORY:TAG. It sends a blob that the registry has
// already no second time. So a push that failed or was canceled goes on when it is called again, and a push of the same index to the
// same tag sends nothing. Push repeats what may be a passing failure of the network or the registry, until ctx ends.
//
// It never speaks to another machine without TLS.
func Push(ctx context.Context, index v1.ImageIndex, ref string, o Options) error {
	op := "push the image of bastiond to " + ref
	tag, err := name.NewTag(ref, name.StrictValidation)
	if err != nil {
		return fail.New(fail.Usage, op, err, "write the image's name as HOST/REPOSITORY:TAG")
	}
	blobs, err := blobSizes(index)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if o.Transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.ResponseHeaderTimeout = answerTimeout
		defer own.CloseIdleConnections()
		o.Transport = own
	}
	if o.pause == nil {
		o.pause = func(n int) time.Duration {
			pause := backoff.After(n, firstPause, mostPause)
			return backoff.Between(pause/2, pause, rand.N)
		}
	}
	for n := 0; ; n++ {
		err := push(ctx, index, tag, blobs, o)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return canceled(ctx, op, err)
		}
		if n+1 == attempts || !isPassing(err) {
			return explain(op, tag, largest(blobs), err)
		}
		if sleep.For(ctx, o.pause(n)) != nil {
			return canceled(ctx, op, err)
		}
	}
}

// push makes one attempt.
func push(ctx context.Context, index v1.ImageIndex, tag name.Tag, blobs map[v1.Hash]int64, o Options) error {
	meter := newMeter(o.Transport, blobs, o.Progress)
	defer meter.stop()
	auth := o.Auth
	if auth == nil {
		auth = authn.Anonymous
	}
	// The library's own repetition sleeps whatever becomes of the context: Push has its own.
	pusher, err := remote.NewPusher(remote.WithAuth(auth), remote.WithTransport(meter), remote.WithUserAgent("bastion"),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	if err != nil {
		return err
	}
	if err := pusher.Push(ctx, tag, index); err != nil {
		return err
	}
	meter.finish()
	return nil
}

// blobSizes returns the sizes of the layers and configurations of an index, each once.
func blobSizes(index v1.ImageIndex) (map[v1.Hash]int64, error) {
	sizes := map[v1.Hash]int64{}
	err := eachImage(index, func(_ v1.Descriptor, m *v1.Manifest) {
		for _, blob := range append(m.Layers, m.Config) {
			sizes[blob.Digest] = blob.Size
		}
	})
	return sizes, err
}

func largest(blobs map[v1.Hash]int64) (most int64) {
	for _, size := range blobs {
		most = max(most, size)
	}
	return most
}

// canceled returns the error of a push whose context has ended. err is that of the latest attempt.
func canceled(ctx context.Context, op string, err error) error {
	const next = "push again: what the registry has is not sent again"
	kind := fail.Other
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = fail.Timeout
	}
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		err = fmt.Errorf("%w (before that: %w)", cause, short(err))
	} else {
		err = cause
	}
	return fail.New(kind, op, err, next)
}

// isPassing tells whether an attempt's failure may be over soon.
func isPassing(err error) bool {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch answer.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests:
			return true
		}
		return answer.StatusCode >= http.StatusInternalServerError && answer.StatusCode != http.StatusNotImplemented
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return true
	}
	for _, passing := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
