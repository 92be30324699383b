package targets

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// usability is the meaning of AWS's status for connections. AWS also returns the endpoint of a stopped database.
type usability int

const (
	usable  usability = iota
	passing           // it refuses or drops connections for some minutes
	down              // it refuses connections until someone intervenes
)

// statuses has the unusable statuses of all kinds, in lower case. Every other status counts as usable, also one that AWS adds
// later.
var statuses = map[string]usability{
	"backtracking":                 passing,
	"creating":                     passing,
	"converting-to-vpc":            passing,
	"failing-over":                 passing,
	"maintenance":                  passing,
	"migrating":                    passing,
	"pending":                      passing, // EC2, EKS
	"provisioning":                 passing, // load balancers
	"reactivating":                 passing, // RDS proxies
	"rebooting_broker":             passing, // MSK
	"resuming":                     passing, // Redshift
	"suspending":                   passing,
	"unhealthy":                    passing, // Cloud Map
	"moving-to-vpc":                passing,
	"preparing-data-migration":     passing,
	"promoting":                    passing,
	"rebooting":                    passing,
	"rebooting cluster nodes":      passing,
	"renaming":                     passing,
	"resetting-master-credentials": passing,
	"restoring":                    passing,
	"starting":                     passing,
	"upgrading":                    passing,

	"cloning-failed":                      down,
	"create-failed":                       down,
	"deleted":                             down,
	"deleting":                            down,
	"failed":                              down,
	"hardware-failure":                    down, // Redshift
	"incompatible-hsm":                    down,
	"isolated":                            down, // OpenSearch
	"paused":                              down, // Redshift
	"pausing":                             down,
	"shutting-down":                       down, // EC2
	"suspended":                           down, // RDS proxies
	"terminated":                          down,
	"inaccessible-encryption-credentials": down,
	"inaccessible-encryption-credentials-recoverable": down,
	"incompatible-create":                             down,
	"incompatible-credentials":                        down,
	"incompatible-network":                            down,
	"incompatible-option-group":                       down,
	"incompatible-parameters":                         down,
	"incompatible-restore":                            down,
	"insufficient-capacity":                           down,
	"insufficient-resource-limits":                    down,
	"migration-failed":                                down,
	"restore-error":                                   down,
	"restore-failed":                                  down,
	"stopped":                                         down,
	"stopping":                                        down,
}

func (c candidate) usability() usability { return statuses[strings.ToLower(c.status)] }

// statusNote returns a warning about a candidate in use; "" if there is none.
func (c candidate) statusNote() string {
	if c.usability() != passing {
		return ""
	}
	return fmt.Sprintf("the status of the %s %s is %q: connections may fail until it is available", c.what, c.id, c.status)
}

// without begins the status of a service that has nothing to connect to, which is ours and not AWS's.
const without = "without "

// notUsable returns the error for a candidate that takes no connections.
func (c candidate) notUsable(spec Spec) error {
	return fail.New(fail.NoTarget, "target "+spec.String(),
		fmt.Errorf("the %s %s takes no connections: its status is %q", c.what, c.id, c.status), c.remedy())
}

// remedy returns the hint for a candidate that is down.
func (c candidate) remedy() string {
	status := strings.ToLower(c.status)
	stopped := status == "stopped" || status == "paused" || status == "inaccessible-encryption-credentials-recoverable"
	switch {
	case stopped && c.start != "":
		return "start it: " + c.start
	case status == "stopping" || status == "pausing":
		return "wait until it is stopped, then start it"
	case slices.Contains([]string{"deleting", "deleted", "shutting-down", "terminated"}, status):
		return "name another one; bastion ls targets shows them"
	}
	return "see its events in the AWS console, or ask the owner of the account what it needs"
}

// noEndpoint returns the error for a candidate without an address.
func (c candidate) noEndpoint(spec Spec) error {
	op := "target " + spec.String()
	switch status := strings.ToLower(c.status); {
	case c.usability() == down:
		return c.notUsable(spec)
	case strings.HasPrefix(status, without):
		return fail.New(fail.NoTarget, op, fmt.Errorf("the %s %s is %s", c.what, c.id, c.status), "name another one, or a host: HOST:PORT")
	case status == "available" || status == "active" || status == "running":
		return fail.New(fail.NoTarget, op, fmt.Errorf("AWS names no endpoint for the %s %s, which is %s", c.what, c.id, status),
			"name the host that clients in the VPC use: HOST:PORT")
	case status == "":
		return fail.New(fail.NoTarget, op, fmt.Errorf("AWS names no endpoint and no status for the %s %s", c.what, c.id),
			"name the host that clients in the VPC use: HOST:PORT")
	}
	return fail.New(fail.NoTarget, op, fmt.Errorf("the %s %s has no endpoint yet: its status is %q", c.what, c.id, c.status),
		"wait until it is available, then try again")
}
