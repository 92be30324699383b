package targets

import (
	"fmt"
	"strings"
)

// clusterModeNote applies to a plain forward of the endpoint, which does not rewrite the cluster's answers.
const clusterModeNote = "cluster mode: the server sends clients on to addresses of its nodes, " +
	"which a forward of one address cannot follow; docs/redis-cluster.md has the ways"

// ClusterPermits returns the patterns that a grant must permit so that clients can follow a cluster's answers. Only these
// answers tell the nodes' addresses: AWS tells their names, but without in-transit encryption the nodes tell addresses. For a
// user's own cluster, the ports are unknown too. The bastion's allow-list applies in any case.
func (e Endpoint) ClusterPermits() []string {
	switch {
	case e.Engine == "":
		return []string{"*:*"}
	case strings.Contains(e.Host, ".serverless."): // the reader's port is the next one
		return []string{fmt.Sprintf("*:%d-%d", e.Port, min(e.Port+1, 65535))}
	default:
		return []string{fmt.Sprintf("*:%d", e.Port)}
	}
}
