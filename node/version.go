package node

import (
	"cmp"
	"strconv"
	"strings"
)

// agentVersion is the version of AWS's agent whose part the node plays. Clients choose by it whether they multiplex connections and
// how they end a session; none of them knows other names than AWS's.
const agentVersion = "3.3.0.0"

const (
	// muxSince is the version of a client from which on AWS-StartPortForwardingSession carries smux.
	muxSince = "1.1.70"
	// muxKeepAliveUntil is the last version whose smux has keepalives. Later ones would keep an idle session from timing out.
	muxKeepAliveUntil = "1.2.331.0"
)

// compareVersions compares two versions as AWS's agent does: part by part, by number if both parts are one, and otherwise as text. Of
// two versions that begin alike the longer one is later.
func compareVersions(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, errX := strconv.Atoi(x[i])
		n, errY := strconv.Atoi(y[i])
		c := cmp.Compare(m, n)
		if errX != nil || errY != nil {
			c = cmp.Compare(x[i], y[i])
		}
		if c != 0 {
			return c
		}
	}
	return len(x) - len(y)
}
