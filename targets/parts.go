package targets

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// part is one of the calls that make up a list. If AWS denies or fails one of them, the results of the others still count.
type part struct {
	of      string   // the kind that it finds: "serverless caches"
	actions []string // IAM actions of its calls
	find    func(ctx context.Context, spec Spec, op string, id *string) ([]candidate, error)
}

// look calls AWS. A nil id finds all.
func (p part) look(ctx context.Context, spec Spec, id *string) ([]candidate, error) {
	return p.find(ctx, spec, "look up target "+spec.String()+" among the "+p.of, id)
}

// unseen are the parts that failed, with their errors.
type unseen []unseenPart

type unseenPart struct {
	of  string
	err error
}

// passable reports whether other calls may succeed although one failed with err.
func passable(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	switch awsanswer.ClassOf(err) {
	case awsanswer.None, awsanswer.Expired, awsanswer.BadCredentials:
		return false
	}
	return true
}

// all returns the results of the parts, in their order, and the parts that failed. An error means that all calls would fail.
func all(ctx context.Context, spec Spec, parts []part) ([]candidate, unseen, error) {
	found := make([][]candidate, len(parts))
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, p := range parts {
		wg.Go(func() { found[i], errs[i] = p.look(ctx, spec, nil) })
	}
	wg.Wait()
	var out []candidate
	var missing unseen
	for i, err := range errs {
		switch {
		case err == nil:
			out = append(out, found[i]...)
		case passable(ctx, err):
			missing = append(missing, unseenPart{parts[i].of, err})
		default:
			return nil, nil, err
		}
	}
	return out, missing, nil
}

// byID returns the first part's result for the Spec's identifier; ok is false if no part knows it.
func byID(ctx context.Context, spec Spec, parts []part) (m match, missing unseen, ok bool, err error) {
	for _, p := range parts {
		found, err := p.look(ctx, spec, &spec.ID)
		switch {
		case err != nil && !passable(ctx, err):
			return match{}, nil, false, err
		case err != nil:
			missing = append(missing, unseenPart{p.of, err})
		case len(found) > 1:
			return match{}, nil, true, fail.New(fail.NoTarget, "target "+spec.String(),
				fmt.Errorf("it is the name of %d: %s", len(found), list(spec.Kind, found)), "name one of them")
		case len(found) > 0:
			m, err = found[0].match(spec)
			return m, nil, true, err
		}
	}
	return match{}, missing, false, nil
}

// err returns the error for the failed parts, or nil.
func (u unseen) err() error {
	switch len(u) {
	case 0:
		return nil
	case 1:
		return u[0].err
	}
	errs := make([]error, len(u))
	for i, p := range u {
		errs[i] = p.err
	}
	joined := errors.Join(errs...)
	text := strings.ReplaceAll(joined.Error(), "\n", "; ")
	return fail.New(fail.KindOf(u[0].err), "", &worded{text, joined}, fail.NextOf(u[0].err))
}

// worded is an error with another text.
type worded struct {
	text string
	error
}

func (w *worded) Error() string { return w.text }
func (w *worded) Unwrap() error { return w.error }

// note returns a note for the user if something was chosen without the failed parts; "" if none failed.
func (u unseen) note() string {
	if len(u) == 0 {
		return ""
	}
	var of []string
	for _, p := range u {
		of = append(of, p.of)
	}
	return fmt.Sprintf("chosen without a look at the %s: %v", strings.Join(of, " and the "), u.err())
}

// instead returns err, the error for a missing target. If some parts failed, it says that the result is uncertain.
func (u unseen) instead(err error) error {
	if len(u) == 0 {
		return err
	}
	return fail.New(fail.KindOf(u[0].err), "", fmt.Errorf("%s, as far as could be looked at: %w", err.Error(), u.err()), fail.NextOf(u[0].err))
}
