package report

import "testing"

func TestPlaces(t *testing.T) {
	here := Place{VPC: "vpc-1", Name: "shared", Region: "eu-central-1"}
	for _, tt := range []struct {
		name          string
		target        Place
		differ, same  bool
		text, advises string
	}{
		{
			"same",
			Place{VPC: "vpc-1", Region: "eu-central-1"},
			false, true,
			"the target is in vpc-1 in eu-central-1, and the bastion in vpc-1 (shared) in eu-central-1", "",
		},
		{
			"other",
			Place{VPC: "vpc-2", Name: "data", Region: "eu-central-1"},
			true, false,
			"the target is in vpc-2 (data) in eu-central-1, and the bastion in vpc-1 (shared) in eu-central-1",
			"use an environment whose bastion is in vpc-2, or",
		},
		{
			"other region",
			Place{Region: "us-east-1", Unknown: "AWS does not say"},
			true, false,
			"the target is in an unknown VPC in us-east-1, and the bastion in vpc-1 (shared) in eu-central-1 (the target's VPC is not known: AWS " +
				"does not say)",
			"use an environment whose bastion is in the target's VPC in us-east-1, or",
		},
		{
			"unknown",
			Place{Region: "eu-central-1", Unknown: "denied"},
			false, false,
			"the target is in an unknown VPC in eu-central-1, and the bastion in vpc-1 (shared) in eu-central-1 (the target's VPC is not known: denied)",
			"",
		},
		{"nothing known", Place{}, false, false, "the target is in an unknown VPC, and the bastion in vpc-1 (shared) in eu-central-1", ""},
	} {
		p := Places{Target: tt.target, Bastion: here}
		if p.Differ() != tt.differ || p.Same() != tt.same || p.String() != tt.text {
			t.Errorf("%s: differ %t, same %t: %s", tt.name, p.Differ(), p.Same(), p)
		}
		if next := p.Next(); len(next) < len(tt.advises) || next[:len(tt.advises)] != tt.advises {
			t.Errorf("%s: %s", tt.name, next)
		}
	}
}
