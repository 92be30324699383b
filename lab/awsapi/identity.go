package awsapi

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/iam"
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

	// Policies are its permissions. Without any it has none, as in AWS.
	Policies []*iam.Policy
	// Deny are patterns of actions, such as "ecs:RunTask", "ssm:*" or "*", that a further policy denies.
	Deny []string
	// Ledger, if not nil, records what the policies decide.
	Ledger *Ledger
}

// Access is a permission that a call needs. Its context has what the service adds to the caller's own condition keys.
type Access = iam.Request

// decide asks the identity's policies.
func (id *Identity) decide(a Access) (iam.Decision, error) {
	if MatchAny(id.Deny, a.Action) {
		return iam.Decision{Effect: iam.ExplicitDeny}, nil
	}
	a.Context = id.context(a.Context)
	d, err := iam.Evaluate(a, id.Policies...)
	if err != nil {
		return iam.Decision{}, fmt.Errorf("evaluate the policies of %s: %w", id.ARN, err)
	}
	id.Ledger.record(id, a, d)
	return d, nil
}

// context adds the condition keys about the caller to those of a request.
func (id *Identity) context(of iam.Context) iam.Context {
	in := of.With("aws:userid", id.UserID).With("aws:PrincipalAccount", id.Account).With("aws:PrincipalArn", id.PrincipalARN())
	if strings.HasPrefix(id.UserID, "AIDA") {
		return in.With("aws:username", id.Name).With("aws:PrincipalType", "User")
	}
	return in.With("aws:PrincipalType", "AssumedRole")
}

// PrincipalARN returns the ARN that policies see: that of the user, or for a role's session that of the role.
func (id *Identity) PrincipalARN() string {
	head, session, ok := strings.Cut(id.ARN, ":assumed-role/")
	if !ok {
		return id.ARN
	}
	role, _, _ := strings.Cut(session, "/")
	return strings.Replace(head, ":sts:", ":iam:", 1) + ":role/" + role
}

// MatchAny reports whether action matches one of the patterns.
func MatchAny(patterns []string, action string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return Match(p, action) })
}

// Match reports whether action matches the pattern, in which * stands for any text and ? for any character. As in IAM, it
// ignores case.
func Match(pattern, action string) bool {
	return iam.MatchAction(pattern, action)
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

// Simulate returns how the identity's policies decide, in the words of IAM's simulator: allowed, implicitDeny or explicitDeny.
func (id *Identity) Simulate(a Access) (string, error) {
	d, err := id.decide(a)
	return d.Effect.String(), err
}
