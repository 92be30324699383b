// Package rediscluster forwards a Redis or Valkey cluster: a client that connects to one local listener can follow the
// cluster to all of its nodes.
//
// The nodes of a cluster tell their clients to connect to each other's addresses, which exist in the VPC alone: in
// -MOVED and -ASK errors and in the answers of CLUSTER SLOTS, SHARDS, NODES and REPLICAS. A [Cluster] gives each
// address that it reads there a listener of its own and writes the listener's address in its place. All else passes
// byte for byte, strings without being kept. Each connection to a node, the first and the others, is a
// [tunnel.Forward]; what rewrites the answers is the connection that it gets from the Dialer.
//
// docs/redis-cluster.md says what is rewritten and where the limits are.
package rediscluster
