package recorded

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// free are actions that need no permission.
// Source: the AWS STS API reference, GetCallerIdentity.
var free = []string{"sts:GetCallerIdentity"}

// List has the calls of one role's runs. It is safe for concurrent use.
type List struct {
	t          testing.TB
	name, path string

	mu   sync.Mutex
	seen map[string]bool
}

// New returns an empty list of a name. It looks for the list's file from the working directory: a test calls it before it changes that.
func New(t testing.TB, name string) *List {
	return &List{t: t, name: name, path: path(name), seen: make(map[string]bool)}
}

func path(name string) string {
	return filepath.Join(rig.Root(), "account", "testdata", "calls", name+".txt")
}

// Add adds actions. One that needs no permission is left out.
func (l *List) Add(actions ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range actions {
		if !slices.Contains(free, a) {
			l.seen[a] = true
		}
	}
}

// Check compares the calls with the list's file, or writes them there.
func (l *List) Check(update bool) {
	l.t.Helper()
	l.mu.Lock()
	got := slices.Sorted(maps.Keys(l.seen))
	l.mu.Unlock()
	if update {
		if err := os.WriteFile(l.path, []byte(strings.Join(got, "\n")+"\n"), 0o600); err != nil {
			l.t.Fatal(err)
		}
		return
	}
	for _, fault := range differences(read(l.t, l.path), got) {
		l.t.Errorf("%s: %s: run this test with -update if that is right", l.name, fault)
	}
}

// differences are what the calls of a run and a list do not have in common.
func differences(listed, got []string) (faults []string) {
	for _, a := range without(got, listed) {
		faults = append(faults, a+" is called, and is not on the list")
	}
	for _, a := range without(listed, got) {
		faults = append(faults, a+" is on the list, and is not called")
	}
	return faults
}

// without are the actions that are not in others.
func without(actions, others []string) []string {
	return slices.DeleteFunc(slices.Clone(actions), func(a string) bool { return slices.Contains(others, a) })
}

// Read returns the actions on the lists of some names.
func Read(t testing.TB, names ...string) (actions []string) {
	t.Helper()
	for _, name := range names {
		actions = append(actions, read(t, path(name))...)
	}
	return actions
}

func read(t testing.TB, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// Faults compares the actions that a policy allows with those that its role calls. An action that is allowed and not called is a surplus,
// unless reasons says why it is there. One that is called and not allowed is a gap. A reason that explains nothing is a fault too.
func Faults(allowed, called []string, reasons map[string]string) (faults []string) {
	for _, a := range without(called, allowed) {
		faults = append(faults, "a gap: "+a+" is called, and is not allowed")
	}
	for _, a := range without(allowed, called) {
		if reasons[a] == "" {
			faults = append(faults, "a surplus: "+a+" is allowed, and is not called")
		}
	}
	for _, a := range slices.Sorted(maps.Keys(reasons)) {
		if slices.Contains(called, a) || !slices.Contains(allowed, a) {
			faults = append(faults, fmt.Sprintf("%s needs no reason: allowed %t, called %t", a, slices.Contains(allowed, a), slices.Contains(called, a)))
		}
	}
	return faults
}
