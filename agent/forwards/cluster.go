package forwards

// ClusterMode says what a forward does about a Redis cluster behind it.
type ClusterMode string

// The modes.
const (
	ClusterOff       ClusterMode = ""          // it is a forward like any other
	ClusterFollow    ClusterMode = "follow"    // clients are led to the nodes
	ClusterTerminate ClusterMode = "terminate" // and the nodes are spoken to by TLS, which the clients do not speak
)

// Note says what a user should know of the mode.
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
