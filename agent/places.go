package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

const (
	// explainedFor is how long a link reuses the places of a target: clients may retry at once and for ever.
	explainedFor = time.Minute
	// explainLimit bounds the look-ups before a client learns that its connection failed.
	explainLimit = 8 * time.Second
)

// apartError is the error of a connection whose ends are in different places, as far as AWS tells.
type apartError struct {
	error
	places report.Places
}

func (e *apartError) Unwrap() error { return e.error }

// placesOf returns the places that an error names; nil: none.
func placesOf(err error) *report.Places {
	if apart, ok := errors.AsType[*apartError](err); ok && apart.places.Differ() {
		return &apart.places
	}
	return nil
}

// isUnreachable reports whether err is of a destination that the bastion has no way to: neither the bastion nor the destination itself has
// refused the connection.
func isUnreachable(err error) bool {
	refused, ok := errors.AsType[*tunnel.RefusedError](err)
	if !ok {
		return fail.KindOf(err) == fail.Timeout
	}
	return refused.Reason == ssh.ConnectionFailed && !strings.Contains(refused.Message, "connection refused")
}

// explain adds the places of the target and the bastion to the error of a connection to addr, if they may be its cause. spec is the
// target's as requested; zero: only addr is known.
func (l *link) explain(ctx context.Context, spec targets.Spec, addr string, err error) error {
	if ctx.Err() != nil || !isUnreachable(err) {
		return err
	}
	if spec.Kind == 0 || spec.Kind == targets.Host {
		host, digits, _ := net.SplitHostPort(addr)
		port, _ := strconv.Atoi(digits)
		if region := targets.RegionOf(host); region == "" || region == l.access.Region() {
			return err // AWS knows no more of a host
		}
		spec = targets.Spec{Kind: targets.Host, Host: host, Port: port}
	}
	p, ok := l.placesOf(ctx, spec)
	switch {
	case !ok || p.Same():
		return err
	case p.Differ():
		return &apartError{fail.New(fail.KindOf(err), "", fmt.Errorf("%w; %s", err, p), p.Next()), p}
	}
	return fail.New(fail.KindOf(err), "", fmt.Errorf("%w; %s", err, p), fail.NextOf(err))
}

// placed are the places of a target, remembered.
type placed struct {
	places report.Places
	known  bool
	at     time.Time
}

// placesOf returns where a target and the link's bastion are; false if the target cannot be looked up.
func (l *link) placesOf(ctx context.Context, spec targets.Spec) (report.Places, bool) {
	key := spec.String()
	l.mu.Lock()
	known, ok := l.placed[key]
	l.mu.Unlock()
	if ok && time.Since(known.at) < explainedFor {
		return known.places, known.known
	}
	ctx, cancel := context.WithTimeout(ctx, explainLimit)
	defer cancel()
	out := placed{at: time.Now()}
	if found, err := l.resolve(ctx, []targets.Spec{spec}); err == nil {
		out.places, out.known = l.access.Places(ctx, found[0]), true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.placed) > maxResolved {
		clear(l.placed)
	}
	l.placed[key] = out
	return out.places, out.known
}
