package targets

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Kind is the kind of a target.
type Kind uint8

// The kinds of target. Name and Host ask no service of AWS; Kinds has a row for each of the others.
const (
	RDS   Kind = iota + 1 // an RDS instance or cluster; ID empty: the region's only one
	Cache                 // an ElastiCache cache; ID empty: the region's only one
	Name                  // a name in the configuration, or, with a port, a host without dots
	Host                  // a host and port

	RDSProxy     // an RDS proxy
	DocDB        // a DocumentDB cluster or instance
	Neptune      // a Neptune cluster or instance
	MemoryDB     // a MemoryDB cluster
	Redshift     // a Redshift cluster or serverless workgroup
	OpenSearch   // an OpenSearch domain or serverless collection
	MSK          // an MSK cluster, or a broker of it
	EKS          // an EKS cluster's API server
	LoadBalancer // an internal load balancer
	CloudMap     // an instance of a Cloud Map service
	EC2          // an EC2 instance
	ECS          // a running task of an ECS service
)

// Description describes a kind of AWS's targets. The grammar, the help, completion, ls targets, the users' policy and
// docs/targets.md are made from these rows or checked against them.
type Description struct {
	Kind   Kind
	Prefix string // what its targets begin with, before the colon
	Form   string // what follows the colon: "ID[/ROLE]"
	Noun   string // in errors: "RDS instance or cluster"
	Help   string // in help and completion: "an RDS instance or cluster"
	Lists  string // in ls targets: "RDS databases"
	// Port is the port of a target whose engine and answers name none: "the engine's". For docs/targets.md.
	Port string
	// TLS says when its endpoints accept TLS only. For docs/targets.md.
	TLS string
	// Guard says whose security groups admit clients. For docs/targets.md.
	Guard string
	// SignIn says how IAM lets clients in. For docs/targets.md, and for doctor unless a candidate says more.
	SignIn string

	// More are those of its actions that the users' policy does not allow: an operator adds them.
	More   []string
	Tokens bool // its databases may take RDS's IAM tokens as passwords

	roles bool // its targets may end in /writer or /reader
	// id checks an identifier and returns its canonical form.
	id func(string) (string, error)
	// parts are the calls that find its targets. Each finds what the others do not.
	parts func(*Resolver) []part
	// bare reports whether a target without an identifier may mean a candidate; nil: any.
	bare func(candidate) bool
	// lean lists lack addresses or ports: each would take a call.
	lean bool
	// reversed asks the parts in reverse order for an identifier without a role.
	reversed bool
	// listedBy is the kind whose calls list this kind's targets too; 0: its own.
	listedBy Kind
	// is reports whether a candidate of the calls of listedBy is of this kind.
	is func(candidate) bool
}

// Kinds returns the descriptions of AWS's kinds of target, in the order of the help.
func Kinds() []Description {
	return []Description{
		rdsKind(), cacheKind(), rdsProxyKind(), docDBKind(), neptuneKind(), memoryDBKind(), redshiftKind(), openSearchKind(), mskKind(),
		eksKind(), balancerKind(), cloudMapKind(), ec2Kind(), ecsKind(),
	}
}

// describe returns the row of a kind; false for names and hosts.
func describe(k Kind) (Description, bool) {
	return row(func(d Description) bool { return d.Kind == k })
}

// kindOf returns the row with the prefix, in any case.
func kindOf(prefix string) (Description, bool) {
	return row(func(d Description) bool { return strings.EqualFold(d.Prefix, prefix) })
}

func row(is func(Description) bool) (Description, bool) {
	rows := Kinds()
	i := slices.IndexFunc(rows, is)
	if i < 0 {
		return Description{}, false
	}
	return rows[i], true
}

// Prefix returns what the kind's targets begin with, before the colon; "" for names and hosts.
func (k Kind) Prefix() string {
	d, _ := describe(k)
	return d.Prefix
}

// Actions returns the IAM actions that the kind's calls need.
func (d Description) Actions() []string {
	var actions []string
	for _, p := range d.parts(&Resolver{}) {
		actions = append(actions, p.actions...)
	}
	slices.Sort(actions)
	return slices.Compact(actions)
}

// Example returns a target of the kind, as help shows it: "rds:ID".
func (d Description) Example() string {
	form, _, _ := strings.Cut(d.Form, "[")
	return d.Prefix + ":" + form
}

// checkNamed accepts a name with the characters of more, besides letters and digits. It keeps the case.
func checkNamed(name, more string, most int) (string, error) {
	switch {
	case name == "":
		return "", errors.New("the identifier is empty")
	case len(name) > most:
		return "", fmt.Errorf("the identifier is longer than %d characters", most)
	}
	for i := range len(name) {
		if c := name[i]; !isLetter(c) && !isDigit(c) && !strings.ContainsRune(more, rune(c)) {
			return "", fmt.Errorf("%q is not an identifier: use letters, digits and %s", clip(name), strings.Join(strings.Split(more, ""), " "))
		}
	}
	return name, nil
}

// checkPath accepts two names with a slash between them.
func checkPath(text, form, more string, most int) (string, error) {
	first, second, ok := strings.Cut(text, "/")
	if !ok || first == "" || second == "" {
		return "", errors.New("write " + form)
	}
	for _, name := range []string{first, second} {
		if _, err := checkNamed(name, more, most); err != nil {
			return "", err
		}
	}
	return text, nil
}

// lowerID is checkID for identifiers without regard to case.
func lowerID(id string) (string, error) { return strings.ToLower(id), checkID(id) }
