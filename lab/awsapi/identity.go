package awsapi

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Identity is a caller: its credentials and its permissions.
type Identity struct {
	Name    string // short: the user's name, or the name of a role's session
	ARN     string
	UserID  string
	Account string

	AccessKey    string
	SecretKey    string
	SessionToken string    // of temporary credentials; empty for a user's own
	Expires      time.Time // of temporary credentials; zero: never

	// Deny and Allow are patterns of actions, such as "ecs:RunTask", "ssm:*" or "*". Deny refuses matching actions; a nil Allow
	// allows all others.
	Deny, Allow []string
	// Policy, if not nil, allows exactly what it says.
	Policy *Policy
}

// verdict is the policies' decision on one action.
type verdict uint8

const (
	allowed verdict = iota
	implicitDeny
	explicitDeny
)

func (id *Identity) may(a Access) verdict {
	if MatchAny(id.Deny, a.Action) {
		return explicitDeny
	}
	if id.Allow != nil && !MatchAny(id.Allow, a.Action) {
		return implicitDeny
	}
	if id.Policy == nil {
		return allowed
	}
	keys := map[string]string{"aws:userid": id.UserID}
	if strings.HasPrefix(id.UserID, "AIDA") {
		keys["aws:username"] = id.Name
	}
	maps.Copy(keys, a.Keys)
	if !id.Policy.allows(Access{a.Action, a.Resource, keys}) {
		return implicitDeny
	}
	return allowed
}

// MatchAny reports whether action matches one of the patterns.
func MatchAny(patterns []string, action string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return Match(p, action) })
}

// Match reports whether action matches the pattern, in which * stands for any text and ? for any character. As in IAM, it
// ignores case.
func Match(pattern, action string) bool {
	return wild(strings.ToLower(pattern), strings.ToLower(action))
}

// Directory holds the identities by access key.
type Directory struct {
	mu    sync.Mutex
	byKey map[string]Identity
}

// Put adds an identity or replaces the one with its access key.
func (d *Directory) Put(id Identity) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byKey == nil {
		d.byKey = make(map[string]Identity)
	}
	d.byKey[id.AccessKey] = id
}

// Get returns a copy of the identity with the access key.
func (d *Directory) Get(accessKey string) (Identity, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, ok := d.byKey[accessKey]
	return id, ok
}
