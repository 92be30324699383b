package sshwire

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
)

// stream is a transport whose Read waits for an error.
type stream chan error

func (s stream) Read([]byte) (int, error) { return 0, <-s }

// Whether a connection lives is open until its reader comes back or gives up.
func TestAlive(t *testing.T) {
	for name, tt := range map[string]struct {
		then func(w *Watch, s stream)
		want bool
	}{
		"the reader comes back": {func(w *Watch, s stream) { go func() { _, _ = w.Read(s, nil) }() }, true},
		"the reader fails":      {func(w *Watch, _ stream) { _, _ = w.Read(strings.NewReader(""), make([]byte, 1)) }, false},
		"this side ends it":     {func(w *Watch, _ stream) { w.End() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := New(), make(stream)
				if n, err := w.Read(strings.NewReader("x"), make([]byte, 1)); n != 1 || err != nil {
					t.Fatal(n, err)
				}
				answer := make(chan bool, 1)
				go func() { answer <- w.Alive() }()
				synctest.Wait()
				select {
				case a := <-answer:
					t.Fatalf("answered %v too early", a)
				default:
				}
				tt.then(w, s)
				if got := <-answer; got != tt.want {
					t.Errorf("alive: %v, want %v", got, tt.want)
				}
				close(s)
			})
		})
	}
}

func TestErr(t *testing.T) {
	broken, s := errors.New("broken"), make(stream, 2)
	s <- broken
	w := New()
	if _, err := w.Read(s, nil); !errors.Is(err, broken) || !errors.Is(w.Err(), broken) || !w.Ended() {
		t.Errorf("%v, %v, ended %v", err, w.Err(), w.Ended())
	}
	w = New()
	w.End()
	s <- io.ErrClosedPipe
	if _, err := w.Read(s, nil); err == nil || w.Err() != nil || !w.Ended() {
		t.Errorf("this side ended it: %v, %v, ended %v", err, w.Err(), w.Ended())
	}
}
