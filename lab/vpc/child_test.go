package vpc

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestChildEndsLate starts programs that ignore the gentle signals: they are killed, and that is an error with their output.
func TestChildEndsLate(t *testing.T) {
	c, err := startChild("stubborn", exec.Command("sh", "-c", "trap '' TERM; echo staying; while :; do sleep 0.05; done"),
		filepath.Join(t.TempDir(), "log"), syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(c.tail(), "staying") })
	err = c.stop(50*time.Millisecond, syscall.SIGTERM)
	if err == nil || !strings.Contains(err.Error(), "killed\n  staying") {
		t.Errorf("%v", err)
	}
}

func TestChildEnds(t *testing.T) {
	c, err := startChild("brief", exec.Command("sh", "-c", "echo the reason >&2; exit 3"), filepath.Join(t.TempDir(), "log"),
		syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	<-c.done
	if err := c.ended(); err == nil || err.Error() != "brief: exit status 3\n  the reason" {
		t.Errorf("%v", err)
	}
	if err := c.stop(time.Minute, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, err := startChild("missing", exec.Command("/does/not/exist"), filepath.Join(t.TempDir(), "log"), 0); err == nil {
		t.Error("a missing program started")
	}
}

// waitFor polls until ok.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not come to that in 20 s")
		}
	}
}

// orphanMain is this test binary as a lab that gets killed: it starts the servers, prints their pids and waits.
func orphanMain() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	p, err := StartPostgres(ctx, PostgresConfig{Mode: Real, User: "app", Password: "x"})
	if err != nil {
		panic(err)
	}
	r, err := StartRedis(ctx, RedisConfig{Mode: Real})
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString(strings.Join([]string{
		p.Addr().String(), r.Addr().String(), p.real.tempDir, r.tempDir,
	}, " ") + "\n")
	<-ctx.Done()
}
