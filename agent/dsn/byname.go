package dsn

import (
	"cmp"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// NoFormat is the error of a format that a database has not, in what who asks for.
func NoFormat(who, format string, d Database) error {
	if d.Protocol == Redis && format == "node" {
		return fail.Usagef("use --hosts, or give ioredis options in code: { host, port, tls: { servername } }",
			"%s: ioredis checks the name, %s, which no connection string can tell it apart from the address", who, d.ServerName)
	}
	what := cmp.Or(string(d.Protocol), d.Engine, "hosts whose engine is not known")
	can := slices.DeleteFunc(FormatsByName(), func(f Format) bool {
		_, ok := f.Of(d)
		return !ok
	})
	return fail.Usagef("choose one of: "+strings.Join(FormatNames(can), ", "), "%s: format %s does not exist for %s", who, format, what)
}

// Choose returns the format of a name, which defaults to uri, among all. who asks for it; the hint puts prefix before a name.
func Choose(all []Format, name, who, prefix string) (Format, error) {
	name = cmp.Or(name, "uri")
	if i := slices.IndexFunc(all, func(f Format) bool { return f.Name == name }); i >= 0 {
		return all[i], nil
	}
	names := FormatNames(all)
	next := config.DidYouMean(name, names, prefix, "choose one of: "+strings.Join(names, ", "))
	return Format{}, fail.Usagef(next, "%s: unknown format %q", who, name)
}

// FormatsByName are the forms of a connection string, by name.
func FormatsByName() []Format {
	all := Formats()
	slices.SortFunc(all, func(x, y Format) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// FormatNames are the names of formats.
func FormatNames(all []Format) []string {
	var names []string
	for _, f := range all {
		names = append(names, f.Name)
	}
	return names
}
