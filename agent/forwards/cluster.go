package forwards

// ClusterMode says how a forward serves a Redis cluster.
type ClusterMode string

// The modes.
const (
	ClusterOff       ClusterMode = ""          // a plain forward
	ClusterFollow    ClusterMode = "follow"    // clients are led to the nodes
	ClusterTerminate ClusterMode = "terminate" // as ClusterFollow; the forward speaks TLS with the nodes, and clients do not
)

// Note returns the mode's note for users.
func (m ClusterMode) Note() string {
	switch m {
	case ClusterFollow:
		return "clients are led to the nodes of the cluster, each of which has a local port"
	case ClusterTerminate:
		return "clients are led to the nodes of the cluster, each of which has a local port; they must speak without TLS here, " +
			"which bastion speaks with the nodes"
	}
	return ""
}
