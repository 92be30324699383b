package awssdk

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
)

const (
	// aheadMost and aheadShare bound how long before their expiry credentials are renewed: a share of their lifetime, at most
	// aheadMost. A renewal that needs the user is then known before anything fails.
	aheadMost  = 5 * time.Minute
	aheadShare = 5 // one part in

	// retrySoonest and retryLatest bound the pause after a renewal ahead of the expiry has failed.
	retrySoonest = time.Second
	retryLatest  = time.Minute
)

var errOld = errors.New("their source has only expired ones")

// renewing is a credentials provider that renews temporary credentials ahead of their expiry. While it cannot, the present
// credentials stay in use until they expire. The SDK's cache renews them at their expiry, in the middle of a call.
type renewing struct {
	aws.CredentialsProvider
	cache   *aws.CredentialsCache // the SDK's own, inside the provider
	explain func(error) error     // gives a failure its kind and the user's next step

	mu     sync.Mutex
	last   aws.Credentials
	due    time.Time // of the next renewal
	busy   bool      // a renewal ahead of the expiry is under way
	failed error     // of the latest renewal; nil after a success
}

// newRenewing returns a provider with the credentials that provider has just given.
func newRenewing(provider aws.CredentialsProvider, cache *aws.CredentialsCache, first aws.Credentials, explain func(error) error) *renewing {
	r := &renewing{CredentialsProvider: provider, cache: cache, explain: explain}
	r.take(first, nil)
	return r
}

// Retrieve implements aws.CredentialsProvider.
func (r *renewing) Retrieve(ctx context.Context) (aws.Credentials, error) {
	r.mu.Lock()
	last, now := r.last, time.Now()
	valid := now.Before(last.Expires)
	ahead := valid && !r.busy && !now.Before(r.due)
	if valid && !ahead {
		r.mu.Unlock()
		return last, nil
	}
	r.busy = r.busy || ahead
	r.mu.Unlock()
	if ahead {
		r.cache.Invalidate()
	}
	c, err := r.CredentialsProvider.Retrieve(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if ahead {
		r.busy = false
	}
	if err != nil && ctx.Err() != nil && !ahead {
		return c, err // it says nothing about the credentials
	}
	r.take(c, err)
	if err != nil && time.Now().Before(r.last.Expires) {
		return r.last, nil
	}
	return c, err
}

// take notes the result of a renewal. Except in newRenewing, the caller holds r.mu.
func (r *renewing) take(c aws.Credentials, err error) {
	now := time.Now()
	if err != nil {
		r.failed = r.explain(err)
		r.due = now.Add(min(max(r.last.Expires.Sub(now)/aheadShare, retrySoonest), retryLatest))
		return
	}
	if !now.Before(c.Expires) { // a program or a file has nothing newer
		r.failed, r.last = r.explain(errOld), c
		r.due = now.Add(retryLatest)
		return
	}
	unchanged := c.AccessKeyID == r.last.AccessKeyID && c.Expires.Equal(r.last.Expires)
	r.failed, r.last = nil, c
	left := c.Expires.Sub(now)
	if r.due = c.Expires.Add(-min(left/aheadShare, aheadMost)); unchanged { // the source renews them later, or not at all
		r.due = now.Add(min(max(left/aheadShare, retrySoonest), retryLatest))
	}
}

// Renewal says when a configuration's temporary credentials are due to be renewed, when the present ones expire, and why the
// latest renewal failed. It is zero for credentials of another kind.
type Renewal struct {
	Due, Expires time.Time
	Err          error // nil after a success
}

// RenewalOf returns the state of a provider's renewal.
func RenewalOf(p aws.CredentialsProvider) Renewal {
	r, ok := p.(*renewing)
	if !ok {
		return Renewal{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return Renewal{Due: r.due, Expires: r.last.Expires, Err: r.failed}
}

// NeedsUser reports whether a failed renewal is the user's to mend, by signing in. AWS out of reach, throttling and denials are not.
func NeedsUser(err error) bool {
	if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	answer := awsanswer.Of(err)
	switch answer.Class {
	case awsanswer.Expired:
		return true
	case awsanswer.BadCredentials:
		return answer.NeedsSignIn()
	case awsanswer.None:
		return isFile(err) || !awsanswer.Unreached(err)
	}
	return false
}
