package awsapi

import (
	"maps"
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
	for _, p := range patterns {
		if Match(p, action) {
			return true
		}
	}
	return false
}

// Match reports whether action matches the pattern, in which * stands for any text. As in IAM, it ignores case.
func Match(pattern, action string) bool {
	parts := strings.Split(strings.ToLower(pattern), "*")
	action = strings.ToLower(action)
	if len(parts) == 1 {
		return action == parts[0]
	}
	action, ok := strings.CutPrefix(action, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		i := strings.Index(action, part)
		if i < 0 {
			return false
		}
		action = action[i+len(part):]
	}
	return strings.HasSuffix(action, parts[last])
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
