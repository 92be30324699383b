package awsanswer

import (
	"cmp"
	"encoding/json"
	"regexp"
	"strings"

	"github.com/bastion-ssm/bastion/internal/pattern"
)

// Policy is the kind of policy that denied a call, from IAM's message.
type Policy uint8

// The kinds of policies. NoPolicy: the message names none. Other: the message names a kind that this package does not know.
const (
	NoPolicy Policy = iota
	Identity
	Resource
	Boundary
	SCP
	RCP
	Session
	Endpoint
	Trust
	Other
)

// policies has each kind's name in IAM's messages ("with an explicit deny in a service control policy", "because no permissions
// boundary allows the ssm:StartSession action"), and the user's next step. In the step, ACTION is the IAM action, WHO and WHOSE
// the denied caller, ITSELF the resource, and KIND an unknown kind's name.
var policies = [...]struct{ name, implicit, explicit string }{
	NoPolicy: {
		"", "ask for the IAM permission ACTION; if the caller has it, a service control policy, a permissions boundary or a session " +
			"policy denies it, which AWS does not say here",
		"ask your AWS administrators to lift the explicit denial of ACTION",
	},
	Identity: {
		"identity-based policy", "ask for the IAM permission ACTION",
		"ask your AWS administrators: an IAM policy of WHO denies ACTION explicitly",
	},
	Resource: {
		"resource-based policy", "ask the owner of ITSELF to allow ACTION in its resource-based policy",
		"ask the owner of ITSELF: its resource-based policy denies ACTION explicitly",
	},
	Boundary: {
		"permissions boundary", "ask your AWS administrators to allow ACTION in WHOSE permissions boundary; a policy cannot exceed it",
		"ask your AWS administrators: WHOSE permissions boundary denies ACTION explicitly",
	},
	SCP: {
		"service control policy", "ask the administrators of your AWS organization to allow ACTION in the service control policies " +
			"of this account",
		"ask the administrators of your AWS organization: a service control policy denies ACTION, which no IAM permission can override",
	},
	RCP: {
		"resource control policy", "ask the administrators of your AWS organization to allow ACTION in its resource control policies",
		"ask the administrators of your AWS organization: a resource control policy denies ACTION, which no IAM permission can override",
	},
	Session: {
		"session policy", "sign in anew with a session policy, or a permission set, that allows ACTION",
		"sign in anew: the session policy of these credentials denies ACTION explicitly",
	},
	Endpoint: {
		"vpc endpoint policy", "ask for ACTION in the policy of the VPC endpoint that the call went through",
		"ask your network's administrators: the policy of the VPC endpoint that the call went through denies ACTION explicitly",
	},
	Trust: {
		"role trust policy", "ask the role's owner to allow ACTION in its trust policy",
		"ask the role's owner: its trust policy denies ACTION explicitly",
	},
	Other: {
		"", "ask your AWS administrators to allow ACTION in the KIND", "ask your AWS administrators: a KIND denies ACTION explicitly",
	},
}

// String returns the kind's name in IAM's messages, or "".
func (p Policy) String() string { return policies[p].name }

// NextDenied returns the user's next step after a denial. action is the call's IAM action, for messages that name none.
func (a Answer) NextDenied(action string) string { return a.nextDenied(action, "") }

// Statement returns the statement of an IAM policy that would allow a denied call, in JSON. action and resource are the call's, for messages
// that name none; an empty resource is any. It returns "" where no statement helps: for other answers, and for an explicit denial.
func (a Answer) Statement(action, resource string) string {
	if a.Class != Denied || a.Explicit {
		return ""
	}
	text, err := json.Marshal(struct{ Effect, Action, Resource string }{
		"Allow", cmp.Or(a.Action, action), cmp.Or(a.Resource, resource, "*"),
	})
	if err != nil {
		return ""
	}
	return string(text)
}

// NextDeniedTo is NextDenied for a denial to another caller, such as "the execution role". resource is the call's, for messages
// that name none.
func (a Answer) NextDeniedTo(caller, action, resource string) string {
	a.Resource = cmp.Or(a.Resource, resource)
	if a.Policy == Session { // the user cannot change another caller's sign-in
		return "ask your AWS administrators: a session policy keeps " + cmp.Or(a.Action, action) + " from " + caller
	}
	return a.nextDenied(action, caller) + " (the call is its own, not yours)"
}

// nextDenied implements NextDenied (caller is empty) and NextDeniedTo.
func (a Answer) nextDenied(action, caller string) string {
	next := policies[a.Policy].implicit
	if a.Explicit {
		next = policies[a.Policy].explicit
	}
	action, resource := cmp.Or(a.Action, action), cmp.Or(a.Resource, "the resource")
	who, whose := "your user or role", "your"
	byIdentity := a.Policy == Identity || a.Policy == NoPolicy
	if a.Resource != "" && byIdentity && (!a.Explicit || caller != "") { // the caller may have the permission for other resources
		action += " on " + a.Resource
	}
	if caller != "" {
		who, whose = caller, "its"
		if !a.Explicit || a.Policy != Identity {
			action += " for " + caller
		}
	}
	return strings.NewReplacer("ACTION", action, "WHOSE", whose, "WHO", who, "ITSELF", resource, "KIND", a.kind).Replace(next)
}

var (
	// The action may differ from the call's: RunTask also needs iam:PassRole and ecs:TagResource.
	deniedAction   = pattern.Lazy(`(?i)not authorized to perform:? \[?([a-z0-9-]+:[A-Za-z0-9]+)`)
	deniedResource = pattern.Lazy(`(?i)not authorized to perform:? \S+ on resource: ["']?(arn:[^\s"']+)`)
	// Users and resources can have any name, so the last match counts: it is IAM's own. KMS uses the plural.
	explicitDeny = pattern.Lazy(`with an explicit deny(?: in (?:an? |the )?([a-z -]+?(?:policy|policies|boundary|boundaries)))?`)
	notAllowed   = pattern.Lazy(`(?:because|,) no ([a-z -]+?(?:policy|policies|boundary|boundaries)) allows?`)
)

// readDenial fills in the fields for Denied from IAM's message.
func (a *Answer) readDenial() {
	if found := deniedAction().FindStringSubmatch(a.Message); found != nil {
		a.Action = found[1]
	}
	if found := deniedResource().FindStringSubmatch(a.Message); found != nil {
		a.Resource = strings.TrimRight(found[1], ".,;")
	}
	lower := strings.ToLower(a.Message)
	at := -1
	for _, form := range []*regexp.Regexp{explicitDeny(), notAllowed()} {
		all := form.FindAllStringSubmatchIndex(lower, -1)
		if len(all) == 0 || all[len(all)-1][0] < at {
			continue
		}
		last := all[len(all)-1]
		at, a.Explicit, a.Policy, a.kind = last[0], form == explicitDeny(), NoPolicy, ""
		if last[2] >= 0 {
			a.kind = singular(lower[last[2]:last[3]])
			a.Policy = policyNamed(a.kind)
		}
	}
}

func singular(name string) string {
	if stem, ok := strings.CutSuffix(name, "ies"); ok {
		return stem + "y"
	}
	return name
}

func policyNamed(name string) Policy {
	for p := range policies {
		if policies[p].name == name && name != "" {
			return Policy(p)
		}
	}
	return Other
}
