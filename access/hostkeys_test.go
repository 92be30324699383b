package access

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/keys"
)

func TestHostKeys(t *testing.T) {
	h := &hostKeys{dir: t.TempDir()}
	signer, _ := newKey(t)
	b := bastions.Bastion{TaskARN: "arn:task/1", RuntimeID: "1-2"}
	if _, _, ok := h.get(b); ok {
		t.Error("known before it is")
	}
	if err := h.put(b, signer.PublicKey(), keys.Ports{SSH: 2222, Bond: 2223}); err != nil {
		t.Fatal(err)
	}
	key, ports, ok := h.get(b)
	if !ok || ports != (keys.Ports{SSH: 2222, Bond: 2223}) || !sameKey(key, signer.PublicKey()) {
		t.Errorf("got %v, %+v, %v", key, ports, ok)
	}
	info, err := os.Stat(h.path(b))
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// Another run of the container has another key; so has another task.
	for _, other := range []bastions.Bastion{{TaskARN: "arn:task/1", RuntimeID: "1-3"}, {TaskARN: "arn:task/2", RuntimeID: "1-2"}, {TaskARN: "arn:task/1"}} {
		if _, _, ok := h.get(other); ok {
			t.Errorf("known for %+v", other)
		}
	}
	data, err := os.ReadFile(h.path(b))
	if err != nil {
		t.Fatal(err)
	}
	// A file of a program that knew nothing of bonds still counts.
	if err := os.WriteFile(h.path(b), []byte(strings.Replace(string(data), `,"bond_port":2223`, "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ports, ok := h.get(b); !ok || ports != (keys.Ports{SSH: 2222}) {
		t.Errorf("of an old file: %+v, %v", ports, ok)
	}
	// A file that says something else is not believed.
	for _, bad := range []string{
		"", "{}", strings.Replace(string(data), "2222", "0", 1), strings.Replace(string(data), "2222", "70000", 1),
		strings.Replace(string(data), "2223", "-1", 1), strings.Replace(string(data), "2223", "70000", 1),
		strings.Replace(string(data), "ssh-ed25519", "ssh-none", 1), strings.Replace(string(data), "task/1", "task/9", 1),
	} {
		if err := os.WriteFile(h.path(b), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := h.get(b); ok {
			t.Errorf("believed %s", bad)
		}
	}
	// Files of tasks that must have ended are removed with the next one.
	old := time.Now().Add(-2 * hostKeyMaxAge)
	if err := os.Chtimes(h.path(b), old, old); err != nil {
		t.Fatal(err)
	}
	if err := h.put(bastions.Bastion{TaskARN: "arn:task/3", RuntimeID: "1"}, signer.PublicKey(), keys.Ports{SSH: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.path(b)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old file: %v", err)
	}
	var none *hostKeys
	if _, _, ok := none.get(b); ok || none.put(b, signer.PublicKey(), keys.Ports{SSH: 1}) != nil {
		t.Error("nil remembers")
	}
}

// A remembered host key that a client does not find at the server is not trusted again, and not found by the next client.
func TestHostKeyIsForgotten(t *testing.T) {
	right, _ := newKey(t)
	wrong, _ := newKey(t)
	b := bastions.Bastion{TaskARN: "arn:task/1", RuntimeID: "1-2"}
	for name, tt := range map[string]struct {
		use   func(*opened, *push) error
		known bool
	}{
		"the key": {func(o *opened, _ *push) error { return o.check("bastion", nil, right.PublicKey()) }, true},
		"another": {func(o *opened, _ *push) error { return o.check("bastion", nil, wrong.PublicKey()) }, false},
		"granted": {func(o *opened, p *push) error { close(p.done); return o.granted(t.Context()) }, true},
		"ended before": {func(o *opened, _ *push) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return o.granted(ctx)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := testAccess(t, Settings{})
			a.hostKeys = &hostKeys{dir: t.TempDir()}
			if err := a.hostKeys.put(b, right.PublicKey(), keys.Ports{SSH: 2222}); err != nil {
				t.Fatal(err)
			}
			o, p := &opened{check: keys.PinnedHostKey(right.PublicKey())}, &push{done: make(chan struct{})}
			(&admission{access: a, bastion: b}).untrustOnFailure(o, p)
			if err := tt.use(o, p); (err == nil) != tt.known {
				t.Errorf("the client: %v", err)
			}
			if _, _, known := a.hostKeys.get(b); known != tt.known {
				t.Errorf("known: %v, want %v", known, tt.known)
			}
		})
	}
}
