package access

import (
	"cmp"
	"context"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
)

const (
	// credentialsCheck is the interval between checks of the AWS credentials. The Access checks them when they are due to be
	// renewed too.
	credentialsCheck = time.Minute
	// signInCheck is the interval between looks at the AWS files while the user has to sign in.
	signInCheck = 2 * time.Second
)

// watchCredentials renews the AWS credentials ahead of their expiry: AWS clients renew them only in a call. It makes bonds replace
// their sessions when the credentials have changed, because SSM does not resume a session of replaced temporary credentials. If
// only the user can renew them, it says so by Options.SignIn, and checks again as soon as an AWS file has changed. Each value of
// wakes makes it check too.
func (a *Access) watchCredentials(wakes <-chan struct{}) {
	origin, err := awssdk.OriginOf(a.ctx, a.options.Env, a.settings.AWS.Profile)
	if err != nil {
		a.log.Debug("cannot tell where the AWS credentials come from", "err", err)
	}
	files := origin.Files(a.options.Env)
	for {
		seen := lookAt(files)
		wait := a.checkCredentials(&origin)
		due := time.Now().Add(wait)
		for changed := false; !changed && time.Now().Before(due); {
			pause := time.Until(due)
			if a.signIn.Load() != nil {
				pause = min(pause, signInCheck)
			}
			select {
			case <-a.ctx.Done():
				return
			case <-wakes:
				changed = true
			case <-time.After(pause):
				changed = a.signIn.Load() != nil && lookAt(files) != seen
			}
		}
	}
}

// look is the state of the AWS files at one moment.
type look [4]struct {
	at   time.Time
	size int64
}

// lookAt returns the state of up to len(look) files. A missing file has the zero state.
func lookAt(files []string) (l look) {
	for i := range min(len(files), len(l)) {
		if info, err := os.Stat(files[i]); err == nil {
			l[i].at, l[i].size = info.ModTime(), info.Size()
		}
	}
	return l
}

// checkCredentials retrieves the credentials, which renews them if that is due. It returns the time until the next check.
func (a *Access) checkCredentials(origin *awssdk.Origin) (wait time.Duration) {
	wait = credentialsCheck
	c, err := a.retrieve()
	renewal := awssdk.RenewalOf(a.credentials)
	if err == nil {
		if n := a.bonds.rotate(c.AccessKeyID); n > 0 {
			a.log.Info("the AWS credentials have changed; replacing the sessions", "bonds", n)
		}
		if c.CanExpire {
			due := c.Expires
			if !renewal.Due.IsZero() {
				due = renewal.Due
			}
			wait = max(time.Second, min(wait, time.Until(due)))
		}
	} else {
		a.log.Debug("cannot retrieve the AWS credentials", "err", err)
	}
	if a.ctx.Err() == nil {
		a.noteSignIn(cmp.Or(renewal.Err, err), renewal.Expires, origin)
	}
	return wait
}

// noteSignIn notes the result of a renewal. A failure that is not the user's to mend leaves the state as it is.
func (a *Access) noteSignIn(err error, expires time.Time, origin *awssdk.Origin) {
	before := a.signIn.Load()
	switch {
	case err == nil && before != nil:
		a.signIn.Store(nil)
		a.log.Info("the AWS credentials are renewed", "after", time.Since(before.Since))
		a.probe() // sessions that were refused are opened now
		if a.options.SignIn != nil {
			a.options.SignIn(nil)
		}
	case err == nil || before != nil || !awssdk.NeedsUser(err):
	default:
		now := &report.SignIn{Since: time.Now(), Expires: expires, Reason: err.Error(), Next: fail.NextOf(err), Command: origin.Command()}
		a.signIn.Store(now)
		a.log.Warn("the AWS credentials cannot be renewed without the user", "err", err, "next", now.Next, "expires", expires)
		if a.options.SignIn != nil {
			a.options.SignIn(now)
		}
	}
}

// SignIn says why the user has to sign in to AWS again; nil: no need is known.
func (a *Access) SignIn() *report.SignIn { return a.signIn.Load() }

// Expires returns when the present AWS credentials expire; zero: never, or unknown.
func (a *Access) Expires() time.Time { return awssdk.RenewalOf(a.credentials).Expires }

func (a *Access) retrieve() (aws.Credentials, error) {
	ctx, cancel := context.WithTimeout(a.ctx, credentialsCheck)
	defer cancel()
	return a.credentials.Retrieve(ctx)
}
