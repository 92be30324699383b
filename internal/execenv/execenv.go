// Package execenv makes the environment of the program that `bastion exec` runs. It adds the variables that database clients read
// (PGHOST, MYSQL_HOST, REDIS_URL), bastion's own (BASTION_<NAME>_*), and those that the user asks for with --env. It removes
// variables that would lead a client past its forward.
package execenv

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

// Parse splits the arguments at "--" into the forwards and the program.
func Parse(args []string) ([]targets.Pair, []string, error) {
	const usageLine = "write bastion exec SPEC... -- PROGRAM [ARGUMENT]..."
	i := slices.Index(args, "--")
	if i < 0 {
		return nil, nil, fail.Usagef(usageLine, "exec: -- before the program is missing")
	}
	if i == len(args)-1 {
		return nil, nil, fail.Usagef(usageLine, "exec: the program is missing")
	}
	if i == 0 {
		return nil, nil, fail.Usagef(usageLine, "exec: the target is missing")
	}
	pairs, err := targets.ParsePair(args[:i])
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[string]string)
	for j := range pairs {
		p := &pairs[j]
		if p.Local == (targets.Local{}) {
			p.Local.Free = true
		}
		name := dsn.VariableName(request.NameOf(*p))
		if other, ok := seen[name]; ok {
			return nil, nil, fail.Usagef("leave one out, or run bastion exec once for each",
				"exec: %s and %s have the same variables, BASTION_%s_*", other, *p, name)
		}
		seen[name] = p.String()
		for _, suffix := range []string{"HOST", "PORT", "ADDR", "URL", "USER", "DATABASE", "PASSWORD", "SERVERNAME"} {
			if setting := config.Lookup(strings.ToLower(name + "_" + suffix)); setting != nil {
				return nil, nil, fail.Usagef("give the target another name in the configuration",
					"exec: %s would get the variable %s, which is a setting of bastion", *p, setting.Env())
			}
		}
	}
	return pairs, args[i+1:], nil
}

// List is the variable that lists the names of the BASTION_<NAME>_* variables, so that scripts and bastion itself recognize them.
const List = "BASTION_EXEC"

// Add adds to environ the variables that the databases' clients read. It also returns notes for the user.
func Add(environ []string, databases []dsn.Database) (env, notes []string) {
	current := make(map[string]string)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		current[name] = value
	}
	getenv := func(name string) string { return current[name] }
	first := make(map[dsn.Protocol]string)
	var names []string
	added := []string{}
	for _, d := range databases {
		d.Getenv = getenv
		names = append(names, dsn.VariableName(d.Name))
		added = append(added, d.Own()...)
		vars := d.Variables()
		if len(vars) == 0 {
			continue
		}
		if other, ok := first[d.Protocol]; ok {
			prefix, _, _ := strings.Cut(vars[0], "_")
			if d.Protocol == dsn.Postgres {
				prefix = "PG"
			}
			notes = append(notes, fmt.Sprintf("%s* are those of %s; for %s there are BASTION_%s_*",
				prefix, other, d.Name, dsn.VariableName(d.Name)))
			continue
		}
		first[d.Protocol] = d.Name
		added = append(added, vars...)
	}
	drop := map[string]bool{}
	if name, ok := first[dsn.Postgres]; ok {
		i := slices.IndexFunc(databases, func(d dsn.Database) bool { return d.Name == name })
		if d := databases[i]; current["PGSSLMODE"] == "verify-full" && !d.Separates && !d.Reaches {
			notes = append(notes, "PGSSLMODE is verify-full, and clients that cannot tell name and address apart know "+
				d.Host()+" alone: use --hosts, or PGSSLMODE=verify-ca")
		}
		// A service in these takes precedence over PGHOST, and would lead the program elsewhere.
		for _, name := range []string{"PGSERVICE", "PGSERVICEFILE"} {
			if current[name] != "" {
				drop[name] = true
				notes = append(notes, name+" is not passed on, because it would lead past the forward")
			}
		}
	}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !drop[name] {
			env = append(env, kv)
		}
	}
	// Of duplicate variables the last one counts.
	return append(append(env, added...), List+"="+strings.Join(names, ",")), notes
}
