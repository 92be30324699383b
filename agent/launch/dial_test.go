//go:build unix

package launch

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
)

// listenAsAgent listens where an agent's socket could be.
func listenAsAgent(t *testing.T) (path string, ln net.Listener) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "s.sock")
	if ln, err = private.Listen(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return path, ln
}

// An agent of an older version refuses a dial with an ID, and gets one without.
func TestDialOfAnOlderAgent(t *testing.T) {
	t.Parallel()
	path, ln := listenAsAgent(t)
	var mu sync.Mutex
	var asked []string
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		asked = append(asked, string(body))
		mu.Unlock()
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		var older struct {
			Scope  api.Scope `json:"scope"`
			Target string    `json:"target"`
		}
		if err := dec.Decode(&older); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(api.NewError(fail.New(fail.Usage, "read the request", err, "see docs/api.md")))
			return
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", api.Protocol)
		w.WriteHeader(http.StatusSwitchingProtocols)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	defer serving.Wait()
	defer func() { _ = server.Close() }()
	req := api.DialRequest{Target: "db:1", ID: "an-id"}
	conn, err := Dial(t.Context(), api.NewClient(path), &req)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	mu.Lock()
	defer mu.Unlock()
	if req.ID != "" || len(asked) != 2 {
		t.Errorf("the ID is %q, and the agent was asked %q", req.ID, asked)
	}
}

// A connection is not waited for when the agent answers nothing at all.
func TestDialOfASilentAgent(t *testing.T) {
	t.Parallel()
	path, _ := listenAsAgent(t)
	// Nobody accepts: the system does, for a process that is stopped.
	_, err := dial(t.Context(), api.NewClient(path), api.DialRequest{Target: "db:1"}, time.Millisecond)
	if fail.KindOf(err) != fail.Timeout {
		t.Errorf("%v, kind %v", err, fail.KindOf(err))
	}
}
