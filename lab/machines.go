package lab

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// Machine is an EC2 instance of the lab's VPC. Its address is a loopback address of this machine.
type Machine struct {
	ID    string
	State string // default: running
	Tags  map[string]string
	Addr  netip.Addr
	// Groups are the ids of its security groups; default: the lab's of databases.
	Groups []string
	Ports  []uint16 // that tasks may reach
	// PasswordData is the administrator's password, encrypted for the instance's key pair; nil: there is none.
	PasswordData []byte
}

// AddMachine adds an EC2 instance.
func (l *Lab) AddMachine(m Machine) error {
	m.State = cmp.Or(m.State, "running")
	for _, port := range m.Ports {
		if err := l.publish(netip.AddrPortFrom(m.Addr, port)); err != nil {
			return fmt.Errorf("add EC2 instance %s: %w", m.ID, err)
		}
	}
	l.ec2.machines.add(m)
	return nil
}

// getPasswordData returns the password of a Windows instance, encrypted.
func (e *ec2) getPasswordData(_ context.Context, c *awsapi.Call) (any, error) {
	found, err := selectByID(e.machines.all(), []string{c.Form.Get("InstanceId")},
		func(m Machine) string { return m.ID }, "InvalidInstanceID.NotFound", "The instance ID '%s' does not exist")
	if err != nil {
		return nil, err
	}
	return struct {
		InstanceID string `xml:"instanceId"`
		Timestamp  string `xml:"timestamp"`
		Data       string `xml:"passwordData"`
	}{found[0].ID, "2026-01-01T00:00:00.000Z", base64.StdEncoding.EncodeToString(found[0].PasswordData)}, nil
}

func (e *ec2) describeInstances(_ context.Context, c *awsapi.Call) (any, error) {
	type state struct {
		Code int    `xml:"code"`
		Name string `xml:"name"`
	}
	type group struct {
		ID string `xml:"groupId"`
	}
	type address struct {
		PrivateIP string `xml:"privateIpAddress"`
	}
	type networkInterface struct {
		Addresses []address `xml:"privateIpAddressesSet>item"`
		Groups    []group   `xml:"groupSet>item"`
	}
	type instance struct {
		ID        string   `xml:"instanceId"`
		Type      string   `xml:"instanceType"`
		State     state    `xml:"instanceState"`
		PrivateIP string   `xml:"privateIpAddress"`
		SubnetID  string   `xml:"subnetId"`
		VpcID     string   `xml:"vpcId"`
		Tags      []ec2Tag `xml:"tagSet>item"`

		Groups     []group            `xml:"groupSet>item"`
		Interfaces []networkInterface `xml:"networkInterfaceSet>item"`
	}
	type reservation struct {
		ID        string     `xml:"reservationId"`
		OwnerID   string     `xml:"ownerId"`
		Instances []instance `xml:"instancesSet>item"`
	}
	machines, err := selectByID(e.machines.all(), awsapi.List(c.Form, "InstanceId"),
		func(m Machine) string { return m.ID }, "InvalidInstanceID.NotFound", "The instance ID '%s' does not exist")
	if err != nil {
		return nil, err
	}
	machines, next, err := ec2Select(c, machines, func(m Machine) (tags, attributes map[string]string) {
		return m.Tags, map[string]string{
			"instance-id": m.ID, "instance-state-name": m.State, "private-ip-address": m.Addr.String(), "vpc-id": e.vpc(),
			"network-interface.addresses.private-ip-address": m.Addr.String(),
		}
	})
	codes := map[string]int{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
	var items []reservation
	for _, m := range machines {
		var groups []group
		for _, id := range guardedBy(m.Groups) {
			groups = append(groups, group{id})
		}
		items = append(items, reservation{"r-" + seededUUID(m.ID)[:8], e.account, []instance{{
			m.ID, "t4g.nano",
			state{codes[m.State], m.State},
			m.Addr.String(), vpcSubnet + "a", e.vpc(), ec2Tags(m.Tags),
			groups,
			[]networkInterface{{[]address{{m.Addr.String()}}, groups}},
		}}})
	}
	return struct {
		Items []reservation `xml:"reservationSet>item"`
		Next  string        `xml:"nextToken,omitempty"`
	}{items, next}, err
}
