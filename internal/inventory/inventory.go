package inventory

import (
	"github.com/bastion-ssm/bastion/internal/forwarding"
)

// Inventory has the targets of an invocation.
type Inventory struct{ *forwarding.Forwarder }
