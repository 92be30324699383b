// Package lab is a local AWS: ECS, SSM with its message gateway, STS, EC2, RDS, ElastiCache and KMS, with a database
// and a cache behind them, for the demo, the tests and users' own CI.
//
// AWS's own clients work against it unmodified. It checks what AWS checks: signatures, permissions, parameters,
// tokens; its states take time, and it fails on demand. The tasks it runs are real bastionds. Everything stays on
// this machine's loopback addresses, and every credential, account and name in it is made up. docs/lab.md says what
// is modelled and what is not.
//
// Product code must not import it.
package lab
