//go:build unix

package rdp

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// script returns a client that is a shell script.
func script(t *testing.T, text string) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "client")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Client{Program: path, stdin: true, args: freeRDPArgs}
}

// The client gets the password on its standard input, none of AWS's variables, and its options after those of bastion.
func TestRun(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("BASTION_REGION", "eu-central-1")
	var out strings.Builder
	c := script(t, `echo "$@"; read -r password; echo "<$password>"; env`)
	if err := c.Run(t.Context(), "f.rdp", "pass word", []string{"/f"}, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "f.rdp /from-stdin:force /cert:ignore /f\n<pass word>\n") ||
		strings.Contains(out.String(), "AWS_") || strings.Contains(out.String(), "BASTION_") {
		t.Errorf("%s", &out)
	}
}

// A client that fails is an error with a next step, and one that cannot start too.
func TestRunFails(t *testing.T) {
	for says, c := range map[string]*Client{
		"exit status 3": script(t, "exit 3"), "start ": {Program: filepath.Join(t.TempDir(), "none"), args: freeRDPArgs},
	} {
		err := c.Run(t.Context(), "f.rdp", "", nil, new(strings.Builder))
		if err == nil || !strings.Contains(err.Error(), says) || fail.NextOf(err) == "" {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// firstWrite tells when a client has written.
type firstWrite chan string

func (w firstWrite) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

// The client ends with its context, by a signal that it can answer.
func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	written := make(firstWrite, 10)
	c := script(t, `trap 'echo ended; exit 0' TERM; echo ready; while :; do sleep 0.1; done`)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, "f.rdp", "", nil, written) }()
	next := func() string {
		select {
		case text := <-written:
			return text
		case <-time.After(30 * time.Second):
			return "nothing"
		}
	}
	if got := next(); got != "ready\n" {
		t.Fatalf("the client writes %q", got)
	}
	stopped := errors.New("stopped")
	cancel(stopped)
	if got := next(); got != "ended\n" {
		t.Errorf("the client writes %q", got)
	}
	if err := <-done; !errors.Is(err, stopped) {
		t.Error(err)
	}
}
