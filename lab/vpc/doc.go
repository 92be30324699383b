// Package vpc runs the servers of the lab's VPC on loopback addresses: a PostgreSQL for RDS, a Redis for ElastiCache and a resolver
// for the VPC's private names.
//
// If the databases are installed, they are real servers: child processes that end with this process, even if it is killed (on
// Linux). Otherwise embedded ones stand in, and say so in their version and in the log. Product code must not import this package.
package vpc

// Mode is the kind of a server.
type Mode string

// The modes.
const (
	Auto     Mode = "auto"     // real where installed and able to start, otherwise embedded; the zero Mode means the same
	Real     Mode = "real"     // real, or an error
	Embedded Mode = "embedded" // embedded
)
