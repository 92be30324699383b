package lab

import (
	"context"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// iamService is the part of Identity and Access Management that simulates the policies of roles.
type iamService struct {
	site
	ecs *ecs
}

func (s *iamService) service() awsapi.Service {
	return awsapi.Service{
		Name: "iam", Protocol: awsapi.Query, Version: "2010-05-08", Namespace: "https://iam.amazonaws.com/doc/2010-05-08/",
		Ops: map[string]awsapi.Op{
			"SimulatePrincipalPolicy": {Handle: s.simulate, Resource: func(c *awsapi.Call) string { return c.Form.Get("PolicySourceArn") }},
		},
	}
}

func (s *iamService) simulate(_ context.Context, c *awsapi.Call) (any, error) {
	role := c.Form.Get("PolicySourceArn")
	s.ecs.mu.Lock()
	gone := s.ecs.noRoles[lastOf(role)]
	var deny []string
	for _, revisions := range s.ecs.defs {
		for _, d := range revisions {
			if d.taskRole() == role {
				deny = append(deny, d.RoleDeny...)
			}
		}
	}
	s.ecs.mu.Unlock()
	if gone || !strings.Contains(role, ":role/") {
		return nil, &awsapi.Error{Code: "NoSuchEntity", Message: "The role with name " + lastOf(role) + " cannot be found.", Status: 404}
	}
	keys := contextOf(c)
	type result struct {
		Action   string `xml:"EvalActionName"`
		Resource string `xml:"EvalResourceName"`
		Decision string `xml:"EvalDecision"`
	}
	var results []result
	resources := awsapi.List(c.Form, "ResourceArns.member")
	if len(resources) == 0 {
		resources = []string{"*"}
	}
	for _, action := range awsapi.List(c.Form, "ActionNames.member") {
		for _, resource := range resources {
			id := s.ecs.roleIdentity(role, "simulation")
			id.Deny, id.Ledger = deny, nil
			decision, err := id.Simulate(awsapi.Access{Action: action, Resource: resource, Context: keys})
			if err != nil {
				return nil, err
			}
			results = append(results, result{action, resource, decision})
		}
	}
	return struct {
		Results     []result `xml:"EvaluationResults>member"`
		IsTruncated bool
	}{results, false}, nil
}

// contextOf are the condition keys that a simulation is asked with.
func contextOf(c *awsapi.Call) (keys iam.Context) {
	for i := 1; ; i++ {
		prefix := "ContextEntries.member." + strconv.Itoa(i)
		name := c.Form.Get(prefix + ".ContextKeyName")
		if name == "" {
			return keys
		}
		keys = keys.With(name, awsapi.List(c.Form, prefix+".ContextKeyValues.member")...)
	}
}
