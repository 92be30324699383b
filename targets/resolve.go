package targets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Named is a target of the configuration.
type Named struct {
	Target string // a SPEC, not itself a Name
	Local  string // an LPORT, or empty; the caller needs it before it resolves the target
}

// Endpoint is a target's address, as the bastion sees it.
type Endpoint struct {
	Name   string // the canonical SPEC without a port, or the name: "rds:orders"
	Host   string // a DNS name or an address without brackets
	Port   int
	Engine string // AWS's name: "postgres", "aurora-mysql", "redis"; empty for a host
	// Database is the database that RDS created with the instance or cluster; empty if there is none.
	Database string
	IAM      bool   // for RDS: IAM database authentication is enabled
	TLS      bool   // the endpoint accepts only TLS, as far as AWS says
	Note     string // note for the user before connecting, or empty
	// StatusNote is a warning from AWS's status of the target; "" if connections should work.
	StatusNote string
	// Cluster marks a Redis or Valkey cluster: clients follow its answers to nodes at other addresses.
	Cluster bool
	Region  string // of the client's AWS configuration, for tokens; may be empty

	ARN      string // of an EKS cluster
	CA       string // of an EKS cluster's API server, in PEM
	Instance string // id of an EC2 instance

	Network Network // what leads to its VPC; zero for a host
}

// Resolver finds endpoints. AWS may be nil if no target needs it. It is safe for concurrent use.
type Resolver struct {
	AWS    *Clients
	Names  map[string]Named
	Region string // for messages only
}

// Resolve returns a target's endpoint. The error for an unknown target is of kind fail.NoTarget and suggests similar names. For
// a bare kind with several candidates it lists them.
func (r *Resolver) Resolve(ctx context.Context, spec Spec) (Endpoint, error) {
	m, err := r.locate(ctx, spec)
	if err != nil {
		return Endpoint{}, err
	}
	return m.endpoint, nil
}

// locate finds what a Spec means.
func (r *Resolver) locate(ctx context.Context, spec Spec) (match, error) {
	return r.find(ctx, spec.Named(func(name string) bool {
		_, ok := r.Names[name]
		return ok
	}))
}

// find is locate for a Spec that is a bare kind even if the configuration has a name like it.
func (r *Resolver) find(ctx context.Context, spec Spec) (match, error) {
	switch spec.Kind {
	case Name:
		return r.name(ctx, spec)
	case Host:
		return match{endpoint: Endpoint{Name: spec.String(), Host: spec.Host, Port: spec.Port}}, nil
	}
	d, ok := describe(spec.Kind)
	switch {
	case !ok:
		return match{}, fail.New(fail.Usage, "resolve target", errors.New("no target given"), specHelp())
	case r.AWS == nil:
		return match{}, fail.New(fail.Usage, "target "+spec.String(), errors.New("needs AWS, which is not set up"),
			"set --profile and --region, or name a host: HOST:PORT")
	}
	parts := d.parts(r)
	if d.reversed && spec.ID != "" && spec.Role == Anyone {
		slices.Reverse(parts)
	}
	bare := d.bare
	if bare == nil {
		bare = func(candidate) bool { return true }
	}
	locate := func() (match, error) { return r.resolve(ctx, spec, parts, bare) }
	if d.lean && spec.ID == "" {
		locate = func() (match, error) { return r.onlyOne(ctx, spec, parts) }
	}
	m, err := locate()
	m.of.signIn.Means = cmp.Or(m.of.signIn.Means, "IAM authentication: "+d.SignIn)
	return m, err
}

// onlyOne resolves a bare kind whose lists lack addresses.
func (r *Resolver) onlyOne(ctx context.Context, spec Spec, parts []part) (match, error) {
	found, missing, err := all(ctx, spec, parts)
	switch {
	case err != nil:
		return match{}, err
	case len(found) == 1:
		spec.ID = found[0].id
		return r.find(ctx, spec)
	}
	m, err := r.choose(spec, found)
	return m, missing.instead(err)
}

// resolve resolves a Spec of AWS's kinds with the parts. bare reports whether a Spec without an identifier may mean a
// candidate.
func (r *Resolver) resolve(ctx context.Context, spec Spec, parts []part, bare func(candidate) bool) (match, error) {
	if spec.ID != "" {
		m, missing, ok, err := byID(ctx, spec, parts)
		if ok || err != nil {
			return m, err
		}
		if len(missing) > 0 {
			return match{}, missing.instead(r.unknown(spec, nil))
		}
		found, _, err := all(ctx, spec, parts)
		if err != nil {
			return match{}, err
		}
		return match{}, r.unknown(spec, found)
	}
	found, missing, err := all(ctx, spec, parts)
	if err != nil {
		return match{}, err
	}
	found = filter(found, bare)
	m, err := r.choose(spec, found)
	switch e := &m.endpoint; {
	case err != nil && len(found) == 0:
		return m, missing.instead(err)
	case err != nil: // other parts could only add candidates
		return m, err
	case e.StatusNote == "":
		e.StatusNote = missing.note()
	case len(missing) > 0:
		e.StatusNote += "; " + missing.note()
	}
	return m, nil
}

func (r *Resolver) name(ctx context.Context, spec Spec) (match, error) {
	named, ok := r.Names[spec.ID]
	if !ok && spec.Port != 0 {
		return match{endpoint: Endpoint{Name: spec.String(), Host: spec.ID, Port: spec.Port}}, nil
	}
	op := fmt.Sprintf("target %q", spec.ID)
	if !ok {
		err := errors.New("there is no such name in the configuration")
		near := closest(spec.ID, slices.Collect(maps.Keys(r.Names)))
		if len(near) > 0 {
			return match{}, fail.New(fail.NoTarget, op, err, "did you mean "+strings.Join(near, " or ")+"?")
		}
		return match{}, fail.New(fail.NoTarget, op, err, "for a database write rds:"+spec.ID+", for a host HOST:PORT")
	}
	inner, err := Parse(named.Target)
	if err != nil {
		return match{}, fail.New(fail.Usage, op+" in the configuration", err, "")
	}
	if inner.Kind == Name {
		if inner.Port == 0 {
			return match{}, fail.New(fail.Usage, op+" in the configuration",
				fmt.Errorf("%q is a name too", inner.ID), "a name stands for rds:ID, cache:ID or HOST:PORT")
		}
		inner = Spec{Kind: Host, Host: inner.ID, Port: inner.Port}
	}
	inner.Port = cmp.Or(spec.Port, inner.Port)
	m, err := r.find(ctx, inner)
	if err != nil {
		return m, fmt.Errorf("%s: %w", op, err)
	}
	m.endpoint.Name = spec.ID
	return m, nil
}

// candidate is a database or another thing of AWS's that a SPEC may mean.
type candidate struct {
	id       string
	what     string // "RDS instance", "replication group"
	status   string // AWS's word: "available", "creating"
	engine   string
	network  Network
	endpoint Endpoint // Host is empty if it has none (yet)
	reader   Endpoint // for a cluster with a reader endpoint
	readers  bool     // its kind can have a reader endpoint
	start    string   // the command that starts it, without the identifier; "" if there is none
	tags     map[string]string

	// What Examine tells. seek finds the security groups where the answer lacks them.
	groups    []string
	seek      func(context.Context) ([]string, error)
	unguarded string
	signIn    SignIn // without a meaning: the kind's
}

// tagsOf makes a map of a service's tags; nil for none.
func tagsOf[T any](list []T, pair func(T) (key, value *string)) map[string]string {
	if len(list) == 0 {
		return nil
	}
	tags := make(map[string]string, len(list))
	for _, t := range list {
		key, value := pair(t)
		tags[aws.ToString(key)] = aws.ToString(value)
	}
	return tags
}

// match is the candidate as what a Spec means.
func (c candidate) match(spec Spec) (match, error) {
	e, err := c.pick(spec)
	return match{e, c}, err
}

// pick applies a SPEC's role and port to the candidate.
func (c candidate) pick(spec Spec) (Endpoint, error) {
	endpoint := c.endpoint
	if spec.Role == Reader {
		if !c.readers {
			return Endpoint{}, fail.New(fail.NoTarget, "target "+spec.String(),
				fmt.Errorf("the %s %s has no reader endpoint", c.what, c.id), "leave /reader away")
		}
		endpoint = c.reader
	}
	if endpoint.Host == "" && spec.Role == Reader && c.endpoint.Host != "" && c.usability() != down {
		return Endpoint{}, fail.New(fail.NoTarget, "target "+spec.String(),
			fmt.Errorf("AWS names no reader endpoint for the %s %s: it has no replica, as far as AWS says", c.what, c.id), "leave /reader away")
	}
	if endpoint.Host == "" {
		return Endpoint{}, c.noEndpoint(spec)
	}
	if c.usability() == down {
		return Endpoint{}, c.notUsable(spec)
	}
	endpoint.StatusNote, endpoint.Network = c.statusNote(), c.network
	endpoint.Network.Group = first(c.groups)
	endpoint.Name = Spec{Kind: spec.Kind, ID: c.id, Role: spec.Role}.String()
	endpoint.Engine = c.engine
	endpoint.Port = cmp.Or(spec.Port, endpoint.Port, DefaultPort(c.engine))
	if endpoint.Port == 0 {
		err := fmt.Errorf("AWS names no port for the %s and engine %q has no usual one", c.what, c.engine)
		if c.engine == "" {
			err = fmt.Errorf("AWS names no port for the %s", c.what)
		}
		return Endpoint{}, fail.New(fail.Usage, "target "+spec.String(), err, "add the port: "+endpoint.Name+":PORT")
	}
	return endpoint, nil
}

// choose returns the only candidate of a bare kind. Candidates without an endpoint or that are down count only without others. A
// port narrows the choice if any candidate listens on it.
func (r *Resolver) choose(spec Spec, all []candidate) (match, error) {
	op := "target " + spec.String()
	if len(all) == 0 {
		return match{}, fail.New(fail.NoTarget, op, fmt.Errorf("there is no %s in %s", noun(spec.Kind), r.region()),
			"check the region and the account (--region, --profile), or name a host: HOST:PORT")
	}
	ready := filter(all, func(c candidate) bool { return c.endpoint.Host != "" && c.usability() != down })
	if len(ready) == 0 {
		ready = all
	}
	if spec.Port != 0 && len(ready) > 1 {
		if there := filter(ready, func(c candidate) bool { return c.endpoint.Port == spec.Port }); len(there) > 0 {
			ready = there
		}
	}
	if len(ready) == 1 {
		return ready[0].match(spec)
	}
	return match{}, fail.New(fail.NoTarget, op,
		fmt.Errorf("%d candidates in %s: %s", len(ready), r.region(), list(spec.Kind, ready)), "name one of them")
}

// unknown returns the error for an identifier that AWS does not know.
func (r *Resolver) unknown(spec Spec, all []candidate) error {
	op := "target " + spec.String()
	err := fmt.Errorf("there is no %s %q in %s", noun(spec.Kind), spec.ID, r.region())
	if len(all) == 0 {
		return fail.New(fail.NoTarget, op, err,
			"there is none at all: check the region and the account (--region, --profile)")
	}
	ids := make([]string, len(all))
	for i, c := range all {
		ids[i] = c.id
	}
	if near := closest(spec.ID, ids); len(near) > 0 {
		for i, id := range near {
			near[i] = Spec{Kind: spec.Kind, ID: id}.String()
		}
		return fail.New(fail.NoTarget, op, err, "did you mean "+strings.Join(near, " or ")+"?")
	}
	return fail.New(fail.NoTarget, op, err, "there are: "+list(spec.Kind, all))
}

func (r *Resolver) region() string { return cmp.Or(r.Region, "this region") }

func noun(kind Kind) string {
	d, _ := describe(kind)
	return d.Noun
}

// list names up to ten candidates: "rds:orders (postgres), rds:stock (mysql, creating)".
func list(kind Kind, all []candidate) string {
	const most = 10
	slices.SortFunc(all, func(a, b candidate) int { return strings.Compare(a.id, b.id) })
	var names []string
	for _, c := range all[:min(len(all), most)] {
		var details []string
		if c.engine != "" {
			details = append(details, c.engine)
		}
		if c.status != "" && (c.endpoint.Host == "" || c.usability() != usable) {
			details = append(details, c.status)
		}
		name := Spec{Kind: kind, ID: c.id}.String()
		if len(details) > 0 {
			name += " (" + strings.Join(details, ", ") + ")"
		}
		names = append(names, name)
	}
	if len(all) > most {
		names = append(names, fmt.Sprintf("and %d more", len(all)-most))
	}
	return strings.Join(names, ", ")
}

func filter(all []candidate, keep func(candidate) bool) []candidate {
	var kept []candidate
	for _, c := range all {
		if keep(c) {
			kept = append(kept, c)
		}
	}
	return kept
}

const httpsPort = 443

// DefaultPort returns AWS's default port for an engine; 0 if it is unknown.
func DefaultPort(engine string) int {
	for _, e := range []struct {
		part string
		port int
	}{
		{"postgres", 5432},
		{"redshift", 5439},
		{"opensearch", httpsPort},
		{"elasticsearch", httpsPort},
		{"mysql", 3306},
		{"mariadb", 3306},
		{"aurora", 3306}, // plain "aurora" was MySQL 5.6
		{"oracle", 1521},
		{"sqlserver", 1433},
		{"db2", 50000},
		{"docdb", 27017},
		{"neptune", 8182},
		{"redis", 6379},
		{"valkey", 6379},
		{"memcached", 11211},
	} {
		if strings.Contains(strings.ToLower(engine), e.part) {
			return e.port
		}
	}
	return 0
}
