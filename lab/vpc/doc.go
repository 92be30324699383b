// Package vpc is what stands in the lab's VPC: a PostgreSQL for RDS, a Redis for ElastiCache and a resolver for the VPC's
// private names, all on loopback addresses.
//
// The databases are real servers where they are installed: child processes that end with this process, even when it is
// killed (on Linux). Elsewhere embedded ones stand in, and say so in their version and in the log. Product code must not
// import this package.
package vpc

// Mode says which kind of server is wanted.
type Mode string

// The modes.
const (
	Auto     Mode = "auto"     // real where installed and able to start, otherwise embedded; the zero Mode means the same
	Real     Mode = "real"     // real, or an error
	Embedded Mode = "embedded" // embedded
)
