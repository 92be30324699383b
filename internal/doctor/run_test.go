package doctor_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/doctor"
	"github.com/bastion-ssm/bastion/lab"
)

// options are those of an examination in a lab, whose variables this process then has.
func options(t *testing.T, more map[string]string) doctor.Options {
	t.Helper()
	l, err := lab.Start(t.Context(), lab.Config{Postgres: lab.Off, Redis: lab.Off, NoWeb: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, kv := range l.Env() {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	for name, value := range more {
		t.Setenv(name, value)
	}
	s, err := config.FromTexts(map[string]string{
		"runtime_dir": l.RuntimeDir(), "state_dir": l.StateDir(), "hosts_file": filepath.Join(home, "hosts"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return doctor.Options{Settings: s, Target: "rds:orders", Version: "1.0.0", Program: "/bin/bastion"}
}

// The gatherers work at once: the race detector watches them.
func TestRun(t *testing.T) {
	r := doctor.Run(t.Context(), options(t, nil))
	if r.Worst != doctor.Error || r.Failure() == nil { // there is no such database
		t.Errorf("%+v", r.Findings)
	}
	for _, f := range r.Findings {
		if f.Level == doctor.Error && f.ID != "target.exists" {
			t.Errorf("%+v", f)
		}
	}
}

// An examination ends soon after its context, whatever does not answer.
func TestRunEndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	o := options(t, map[string]string{"AWS_ENDPOINT_URL": "http://" + silent.Addr().String()})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		doctor.Run(ctx, o)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
}
