// Package targets turns a user's target, such as rds:orders, into the host and port that the bastion dials.
//
// It has two halves. Parsing is pure: [Parse] reads one target, [ParsePair] the command line of a forward and [ParseL]
// OpenSSH's -L. Resolving asks AWS: [Resolver.Resolve] finds the endpoint of a database, or says which names are close.
//
// # Grammar
//
//	SPEC  = "rds"   [":" ID ["/" ROLE]] [":" PORT]   RDS instance, Aurora or Multi-AZ cluster
//	      | "cache" [":" ID ["/" ROLE]] [":" PORT]   ElastiCache replication group, serverless cache or cache cluster
//	      | NAME [":" PORT]                          a name in the configuration; with PORT and no such name, a host
//	      | HOST ":" PORT                            a host as the bastion resolves it
//	ID    = letter { letter | digit | "-" }          case does not matter
//	ROLE  = "writer" | "primary" | "reader"          primary is another word for writer
//	NAME  = 1 to 63 letters, digits, "-" and "_"; not only digits, not "rds" or "cache"
//	HOST  = DNS name with a dot, IPv4 address, or IPv6 address in brackets
//	PORT  = 1 to 65535, in at most five decimal digits
//
// A suffix of digits only is always the port: rds:5432 is the region's only database, at port 5432, and never a
// database called "5432" (no identifier can start with a digit). A host called rds or cache is written with its domain
// or with a final dot (rds.:5432).
//
//	LPORT = digits                  a local port; 0 is a free one
//	      | ":"                     a free local port
//	      | ADDR ":" [digits]       a local port at ADDR: "localhost", "*", or a loopback or unspecified IP address
package targets
