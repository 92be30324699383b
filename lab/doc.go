// Package lab is a local AWS for the demo, the tests and users' own CI. It has ECS, SSM with its message gateway, STS, EC2, RDS,
// ElastiCache and KMS. Behind them are a database and a cache.
//
// AWS's own clients work against it unmodified. It checks signatures, permissions, parameters and tokens as AWS does. Its states
// take time, and it fails on demand. Its tasks are real bastionds. Everything stays on this machine's loopback addresses, and every
// credential, account and name is made up. docs/lab.md lists what the lab models.
//
// Product code must not import it.
package lab
