package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/forwards"
)

// The Agent's lock is free during a write. Writes come one after another, what changes meanwhile shares the next one, and the last
// state wins, at the end too.
func TestWriter(t *testing.T) {
	a, _ := newAgent(t, time.Minute)
	defer a.cancel()
	var writing sync.Mutex
	began, proceed := make(chan struct{}, 10), make(chan struct{})
	var written []int
	a.writer.write = func(records []forwards.Record) error {
		if !writing.TryLock() {
			t.Error("two writes at once")
			return nil
		}
		defer writing.Unlock()
		began <- struct{}{}
		<-proceed
		written = append(written, len(records))
		return nil
	}
	var savers sync.WaitGroup
	save := func() {
		if err := a.writer.save(); err != nil {
			t.Error(err)
		}
	}
	a.restoreOne("first")
	savers.Go(save)
	<-began
	if !a.mu.TryLock() {
		t.Fatal("the Agent's lock is held during a write")
	}
	a.mu.Unlock()
	for _, name := range []string{"a", "b", "c"} {
		a.restoreOne(name)
	}
	for range 3 {
		savers.Go(save)
	}
	close(proceed)
	savers.Wait()
	if !slices.Equal(written, []int{1, 4}) {
		t.Errorf("writes of %v records, want 1, then 4", written)
	}
	a.restoreOne("last")
	a.writer.close()
	a.restoreOne("too late")
	save()
	if !slices.Equal(written, []int{1, 4, 5}) {
		t.Errorf("at the end, writes of %v records, want 5 in the third", written)
	}
}

// restoreOne gives an Agent another forward that is to be written down.
func (a *Agent) restoreOne(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.registry.Restore(testRecord(name, "127.0.0.1:0"), time.Now())
}

// A write that failed is told each time, logged once, and made good by the next one.
func TestUnsaved(t *testing.T) {
	a, cfg := newAgent(t, time.Minute)
	defer a.cancel()
	logged := 0
	a.writer.log = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		logged++
		return len(p), nil
	}), nil))
	if err := a.writer.save(); err != nil {
		t.Errorf("nothing to write down fails: %v", err)
	}
	a.restoreOne("db")
	away := cfg.StateDir + ".away"
	if err := os.Rename(cfg.StateDir, away); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.writer.save(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without the state directory: %v", err)
		}
	}
	if logged != 1 {
		t.Errorf("logged %d times", logged)
	}
	if err := os.Rename(away, cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	a.reopen() // as the timer does
	if records, err := a.store.load(); err != nil || len(records) != 1 {
		t.Errorf("with the directory again: %+v, %v", records, err)
	}
	a.close()
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A file that an older version wrote is read: without the region, the account and the fields that came later.
func TestRestoreOld(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	path := filepath.Join(cfg.StateDir, "forwards.json")
	text := `{
  "v": 1,
  "forwards": [
    {
      "request": {"kind": "tcp", "name": "orders", "target": "rds:orders", "listen": "127.0.0.1:0"},
      "scope": {"settings": {"cluster": "dev"}, "env": {"AWS_PROFILE": "dev", "AWS_REGION": "eu-test-1"}},
      "link": "0123456789ab",
      "target": "orders.test:5432",
      "engine": "postgres",
      "command": "forward"
    }
  ]
}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := Kept(cfg.StateDir)
	if err != nil || len(kept) != 1 || kept[0].State != "kept" || kept[0].Ref != "orders" {
		t.Errorf("without an agent: %+v, %v", kept, err)
	}
	a, end := runAgent(t, cfg)
	all := a.State().Forwards
	if len(all) != 1 {
		t.Fatalf("%+v", all)
	}
	if f := all[0]; f.State != "ready" || f.Name != "orders" || f.Profile != "dev" || f.Region != "eu-test-1" || f.Target != "orders.test:5432" ||
		f.Engine != "postgres" || f.Command != "forward" || !f.Detached || f.Link == "0123456789ab" {
		t.Errorf("%+v", f)
	}
	end()
	records, err := a.store.load()
	if err != nil || len(records) != 1 || records[0].Request.Listen != all[0].Listen || records[0].Link != all[0].Link {
		t.Errorf("written down: %+v, %v", records, err)
	}
}
