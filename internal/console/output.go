package console

import (
	"errors"
	"io"
	"sync/atomic"
	"syscall"
)

// outputError marks a failed write to standard output.
type outputError struct{ error }

func (e *outputError) Unwrap() error { return e.error }

// Output marks the errors of writes to standard output, and keeps the first. Some writers, such as the command line's library, do
// not return it.
type Output struct {
	w      io.Writer
	failed atomic.Pointer[outputError]
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		failed := &outputError{err}
		o.failed.CompareAndSwap(nil, failed)
		err = failed
	}
	return n, err
}

// NewOutput returns an Output that writes to w.
func NewOutput(w io.Writer) *Output { return &Output{w: w} }

// Outcome returns the final error of a command that ended with err: a failed write to standard output counts too.
func (o *Output) Outcome(err error) error {
	if failed := o.failed.Load(); err == nil && failed != nil && !ReaderGone(failed) {
		return failed
	}
	return err
}

// ReaderGone reports whether a command ended because the reader of its output, such as head, closed it.
func ReaderGone(err error) bool {
	return errors.As(err, new(*outputError)) && errors.Is(err, syscall.EPIPE)
}
