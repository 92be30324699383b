// Package rediscluster forwards a Redis or Valkey cluster: a client that connects to one local listener can follow the
// cluster to all of its nodes.
//
// The nodes of a cluster tell their clients to connect to each other's addresses, which exist only in the VPC. They do so in -MOVED
// and -ASK errors, and in the answers of CLUSTER SLOTS, SHARDS, NODES and REPLICAS. A [Cluster] gives each address that it reads
// there a listener of its own and writes the listener's address in its place. All other bytes pass unchanged, and strings pass
// without being buffered. Each connection to a node, the first and the others, is a [tunnel.Forward]. The connection that it gets
// from the Dialer rewrites the answers.
//
// docs/redis-cluster.md lists the rewritten answers and the limits.
package rediscluster
