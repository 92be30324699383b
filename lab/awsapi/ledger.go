package awsapi

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/bastion-ssm/bastion/lab/iam"
)

// maxLedger bounds the remembered requests, and the remembered denials.
const maxLedger = 2000

// Asked is a request that a caller's policies decided on. Requests that differ in what AWS makes up alone are one: ids of tasks and
// sessions.
type Asked struct {
	Principal string // ARN as policies see it
	Policies  []*iam.Policy
	iam.Request
	iam.Decision
}

// Ledger remembers which permissions were used, and which were missing. It is safe for concurrent use; a nil one remembers nothing.
type Ledger struct {
	mu     sync.Mutex
	grants map[iam.Grant]int
	asked  map[string]Asked
	denied []Asked
}

// record remembers a decision.
func (l *Ledger) record(id *Identity, r Access, d iam.Decision) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.grants == nil {
		l.grants, l.asked = make(map[iam.Grant]int), make(map[string]Asked)
	}
	a := Asked{id.PrincipalARN(), id.Policies, r, d}
	if key := a.key(); len(l.asked) < maxLedger {
		l.asked[key] = a
	}
	if d.Effect != iam.Allow {
		if len(l.denied) < maxLedger {
			l.denied = append(l.denied, a)
		}
		return
	}
	for _, g := range d.By {
		l.grants[g]++
	}
}

// key tells kinds of requests apart: by who asks, what they ask, which keys the request has, and what the answer was.
func (a Asked) key() string {
	kind, _, _ := strings.Cut(a.Resource[strings.LastIndexByte(a.Resource, ':')+1:], "/")
	parts := []string{a.Principal, a.Action, kind, a.Effect.String()}
	for _, g := range a.By {
		parts = append(parts, g.Sid)
	}
	return strings.Join(append(parts, slices.Sorted(maps.Keys(a.Context))...), " ")
}

// Grants returns how many times each grant was used.
func (l *Ledger) Grants() map[iam.Grant]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.grants)
}

// Asked returns a request of each kind.
func (l *Ledger) Asked() []Asked {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.asked))
}

// Denied returns the requests that were denied, oldest first.
func (l *Ledger) Denied() []Asked {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.denied)
}
