package bond

import (
	"context"
	"errors"
	"sync"
)

const (
	// mostNews is how many NEWs a client sends before it believes refusals.
	mostNews = 5
	// mostDenials is how many streams in succession must deny the connection, without proof, until the client believes it.
	mostDenials = 3
)

// first tracks whether the far end has a client's connection. An ACCEPT proves that; until then, NEW or its ACCEPT may have been
// lost or damaged.
//
//	NEW or a JOIN accepted       -> the far end has the connection
//	NEW refused without proof    -> the far end could not read it: begin anew, with another NEW
//	no answer to NEW             -> ask by a JOIN
//	a JOIN refused as unknown    -> NEW has not come: begin anew
//
// One stream at a time asks; the others wait for the answer.
type first struct {
	turn chan struct{} // capacity 1: held by the asking stream

	mu    sync.Mutex
	has   bool // the far end has the connection
	anew  bool // the next stream sends NEW
	tries int  // NEWs that were sent
}

func newFirst() *first { return &first{turn: make(chan struct{}, 1), tries: 1} }

// enter waits until the caller may ask, or need not ask any more. The caller calls done.
func (f *first) enter(ctx context.Context) (done func(), err error) {
	if has, _ := f.state(); has {
		return func() {}, ctx.Err()
	}
	select {
	case f.turn <- struct{}{}:
		return func() { <-f.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// mustBegin reports whether the stream must send NEW.
func (f *first) mustBegin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.anew
}

// begun counts a NEW.
func (f *first) begun() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.anew = false
	f.tries++
}

// answered takes in the result of an OPEN; nil stands for ACCEPT.
func (f *first) answered(kind openKind, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	refused, isRefused := errors.AsType[*RefusedError](err)
	switch {
	case err == nil, isRefused && kind == openJoin && refused.sure:
		f.has = true
	case f.has || !isRefused:
	case kind == openNew || refused.Code == RefuseUnknown:
		f.anew = true
	}
}

// state reports whether the far end has the connection, and how many more NEWs the client may send if not.
func (f *first) state() (has bool, left int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.has, max(0, mostNews-f.tries)
}

// denials counts refusals that deny the connection without proof. A usable subflow disproves them, so a relay cannot end a
// connection by one damaged or forged answer.
type denials struct{ n int }

// add counts one more, and reports whether the client should believe them.
func (d *denials) add(pathless bool) bool {
	if !pathless {
		d.n = 0
		return false
	}
	d.n++
	return d.n >= mostDenials
}
