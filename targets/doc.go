// Package targets turns a user's target, such as rds:orders, into the host and port that the bastion dials.
//
// A kind of target is one [Description]: its prefix, the form of its identifiers, its calls and their IAM actions. The next kind is
// another one, with the calls in [Clients], the actions in package account and an answer in package lab.
//
// The package has two halves. Parsing is pure: [Parse] reads one target, [ParsePair] the command line of a forward and [ParseL]
// OpenSSH's -L. Resolving asks AWS: [Resolver.Resolve] finds the endpoint of a database, or says which names are close.
//
// # Grammar
//
//	TARGET = [ENV "/"] SPEC                          ENV is an environment of the configuration; Pair has it, Spec does not
//
//	SPEC  = KIND [":" ID ["/" ROLE]] [":" PORT]      a thing of AWS's; without an ID the region's only one. ROLE: for some kinds
//	      | NAME [":" PORT]                          a name in the configuration; with PORT and no such name, a host
//	      | HOST ":" PORT                            a host as the bastion resolves it
//	KIND  = "rds" | "cache" | "rdsproxy" | "docdb" | "neptune" | "memorydb" | "redshift" | "opensearch" | "msk" | "eks" | "lb" |
//	        "cloudmap" | "ec2" | "ecs"               the rows of [Kinds], which say what an ID is
//	ID    = letter { letter | digit | "-" }          for databases and caches; case does not matter
//	ROLE  = "writer" | "primary" | "reader"          primary is another word for writer
//	NAME  = 1 to 63 letters, digits, "-" and "_"; not only digits
//	HOST  = DNS name with a dot, IPv4 address, or IPv6 address in brackets
//	PORT  = 1 to 65535, in at most five decimal digits
//
// A suffix of digits only is always the port: rds:5432 is the region's only database, at port 5432, and never a
// database called "5432" (no identifier can start with a digit). A host with the name of a kind is written with its domain or with a
// final dot (rds.:5432). A name in the configuration has precedence over a bare kind of the same name.
//
//	LPORT = digits                  a local port; 0 is a free one
//	      | ":"                     a free local port
//	      | ADDR ":" [digits]       a local port at ADDR: "localhost", "*", or a loopback or unspecified IP address
package targets
