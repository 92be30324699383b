package targets

import (
	"fmt"
	"strings"
)

// clusterModeNote is true of a forward of the endpoint alone, which does not rewrite what the cluster answers.
const clusterModeNote = "cluster mode: the server sends clients on to addresses of its nodes, " +
	"which a forward of one address cannot follow; docs/redis-cluster.md has the ways"

// ClusterPermits returns, for the endpoint of a cluster, the patterns of what a grant must permit for clients to follow the
// cluster's answers. Which addresses the nodes have is known only from those answers: AWS tells their names, but without
// in-transit encryption the nodes tell their addresses. The ports of a cluster of one's own are not known either. The
// bastion's own list applies in any case.
func (e Endpoint) ClusterPermits() []string {
	switch {
	case e.Engine == "":
		return []string{"*:*"}
	case strings.Contains(e.Host, ".serverless."): // readers have the next port
		return []string{fmt.Sprintf("*:%d-%d", e.Port, min(e.Port+1, 65535))}
	default:
		return []string{fmt.Sprintf("*:%d", e.Port)}
	}
}
