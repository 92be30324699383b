package report

import (
	"cmp"
	"fmt"
	"strings"
)

// Place is where something is in AWS.
type Place struct {
	VPC     string `json:"vpc,omitempty"`      // id; "": unknown
	Name    string `json:"vpc_name,omitempty"` // its Name tag; "": unknown, or it has none
	Region  string `json:"region,omitempty"`
	Unknown string `json:"vpc_unknown,omitempty"` // why the VPC is not known
}

// String names a place: "vpc-0a (data) in eu-central-1".
func (p Place) String() string {
	text := cmp.Or(p.VPC, "an unknown VPC")
	if p.Name != "" {
		text += " (" + p.Name + ")"
	}
	if p.Region != "" {
		text += " in " + p.Region
	}
	return text
}

// Places are where a target and the bastion are. Peering, a transit gateway or a shared VPC may connect two VPCs, so different places
// are no error. They are probably the cause where no connection can be opened.
type Places struct {
	Target  Place `json:"target"`
	Bastion Place `json:"bastion"`
}

// Regions reports whether the two are known to be in different regions.
func (p Places) Regions() bool {
	return p.Target.Region != "" && p.Bastion.Region != "" && p.Target.Region != p.Bastion.Region
}

// Differ reports whether the two are known to be in different places.
func (p Places) Differ() bool {
	return p.Regions() || p.Target.VPC != "" && p.Bastion.VPC != "" && p.Target.VPC != p.Bastion.VPC
}

// Same reports whether the two are known to be in one VPC.
func (p Places) Same() bool { return !p.Differ() && p.Target.VPC != "" && p.Bastion.VPC != "" }

// String names both places, and says what is not known of them.
func (p Places) String() string {
	text := fmt.Sprintf("the target is in %s, and the bastion in %s", p.Target, p.Bastion)
	var unknown []string
	for _, u := range []struct{ whose, why string }{{"the target's", p.Target.Unknown}, {"the bastion's", p.Bastion.Unknown}} {
		if u.why != "" {
			unknown = append(unknown, u.whose+" VPC is not known: "+u.why)
		}
	}
	if len(unknown) > 0 {
		text += " (" + strings.Join(unknown, "; ") + ")"
	}
	return text
}

// Next says how to reach the target in another place.
func (p Places) Next() string {
	other := cmp.Or(p.Target.VPC, "the target's VPC")
	if p.Regions() {
		other += " in " + p.Target.Region
	}
	return "use an environment whose bastion is in " + other + ", or connect the two VPCs: peering or a transit gateway, routes both ways, " +
		"DNS resolution of the peering or of the private zone, and the target's security group"
}
