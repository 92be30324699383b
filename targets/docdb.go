package targets

import (
	"context"
	"slices"
	"strings"
)

// docDBKind has DocumentDB's clusters and their instances, which RDS's API lists.
func docDBKind() Description {
	d := sharedKind(DocDB, "docdb", "DocumentDB", "aws docdb ")
	d.TLS, d.SignIn = "by default", docDBSignIn
	return d
}

const docDBSignIn = "as a user of MONGODB-AWS, by the driver"

// neptuneKind has Neptune's clusters and their instances, which RDS's API lists.
func neptuneKind() Description {
	d := sharedKind(Neptune, "neptune", "Neptune", "aws neptune ")
	d.TLS, d.SignIn = "always", "by signed requests, if IAM authentication is on"
	return d
}

// sharedKind is a kind whose databases RDS's API lists among its own. engine is their name there, and their targets' prefix.
func sharedKind(kind Kind, engine, service, cli string) Description {
	is := func(c candidate) bool { return c.engine == engine || strings.HasPrefix(c.engine, engine+"-") }
	return Description{
		Kind: kind, Prefix: engine, Form: "ID[/ROLE]", Noun: service + " cluster or instance", Help: "a " + service + " cluster or instance",
		Lists: service + " clusters", Port: "the one that AWS names", Guard: "its own",
		roles: true, id: lowerID, listedBy: RDS, is: is,
		parts: func(r *Resolver) []part {
			parts := rdsKind().parts(r)
			for i := range parts {
				find := parts[i].find
				parts[i].of = strings.Replace(parts[i].of, "RDS", service, 1)
				parts[i].find = func(ctx context.Context, spec Spec, op string, id *string) ([]candidate, error) {
					found, err := find(ctx, spec, op, id)
					found = slices.DeleteFunc(found, func(c candidate) bool { return !is(c) })
					for i := range found {
						found[i].what = strings.Replace(found[i].what, "RDS", service, 1)
						found[i].start = strings.Replace(found[i].start, "aws rds ", cli, 1)
					}
					return found, err
				}
			}
			return parts
		},
	}
}
