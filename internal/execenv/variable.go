package execenv

import (
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
	"github.com/bastion-ssm/bastion/targets"
)

// Variable is a variable that the user sets to a connection string.
type Variable struct {
	name   string // of the variable
	target string // as on the command line, or as in the names of its variables
	format dsn.Format
}

var envName = pattern.Lazy(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ParseVariable reads NAME=SPEC[,FORMAT].
func ParseVariable(text string) (Variable, error) {
	const next = "write --env NAME=SPEC or --env NAME=SPEC,FORMAT, such as --env DATABASE_URL=rds:orders,node"
	name, rest, ok := strings.Cut(text, "=")
	target, format, _ := strings.Cut(rest, ",")
	switch {
	case !ok || target == "":
		return Variable{}, fail.Usagef(next, "--env %s: the target is missing", text)
	case !envName().MatchString(name):
		return Variable{}, fail.Usagef(next, "--env: %q is not the name of a variable", name)
	case strings.HasPrefix(name, "BASTION_"):
		return Variable{}, fail.Usagef("choose another name", "--env: the variable %s is bastion's own", name)
	}
	single := slices.DeleteFunc(dsn.FormatsByName(), func(f dsn.Format) bool { return f.Several })
	f, err := dsn.Choose(single, format, "--env "+name, "")
	return Variable{name, target, f}, err
}

// Check refuses variables of targets without a forward, before the command starts anything.
func Check(all []Variable, pairs []targets.Pair) error {
	seen := make(map[string]bool)
	for _, e := range all {
		if seen[e.name] {
			return fail.Usagef("give each variable once", "--env: %s is given twice", e.name)
		}
		seen[e.name] = true
		var names []string
		for _, p := range pairs {
			names = append(names, request.NameOf(p))
		}
		switch at := targetsCalled(names, e.target); {
		case len(at) == 0:
			return fail.Usagef("name one of: "+strings.Join(names, ", "), "--env %s: %s is not one of the targets", e.name, e.target)
		case len(at) > 1:
			return fail.Usagef("name one of: "+strings.Join(names, ", "), "--env %s: %s matches several targets", e.name, e.target)
		}
	}
	return nil
}

// targetsCalled returns the indexes of the names that text means: the target as given, or else its id alone.
func targetsCalled(names []string, text string) (at []int) {
	whole := text
	if pair, err := targets.ParseTarget(text); err == nil {
		whole = request.NameOf(pair)
	}
	if i := slices.Index(names, whole); i >= 0 {
		return []int{i}
	}
	for i, name := range names {
		_, spec := targets.CutEnvironment(name)
		if _, id, ok := strings.Cut(name, ":"); ok && id == text || spec == text {
			at = append(at, i)
		}
	}
	return at
}

// Set returns the variables with their values. The caller has called Check.
func Set(all []Variable, databases []dsn.Database, getenv func(string) string) ([]string, error) {
	var names, out []string
	for _, d := range databases {
		names = append(names, d.Name)
	}
	for _, e := range all {
		d := databases[targetsCalled(names, e.target)[0]] // Check ensures that there is one
		d.Getenv = getenv
		text, ok := e.format.Of(d)
		if !ok {
			return nil, dsn.NoFormat("--env "+e.name, e.format.Name, d)
		}
		out = append(out, e.name+"="+text)
	}
	return out, nil
}
