package account

import "fmt"

// Place is where a stack is or will be: what its policies name in ARNs.
type Place struct{ Partition, Region, Account string }

// Document is a policy that an administrator attaches by hand.
type Document struct {
	Name        string // user, user-CLASS, admin, init, resources, roles or network
	Description string
	JSON        []byte
}

// Documents returns the policies of people: of the users of each class, of the operators, and the four of whoever deploys the stack. Each fits
// into a managed policy. What CloudFormation gives a name of its own, a pattern of the stack's name stands for; the stack's key, if it makes
// one, is any key that sessions to the cluster's tasks use.
func (s *Stack) Documents(p Place) ([]Document, error) {
	type named struct {
		name, description string
		policy            Policy
	}
	var all []named
	for _, c := range s.Inputs.Classes {
		name := "user"
		if c.Name != "" {
			name += "-" + c.Name
		}
		what := "start and use bastions of one's own: "
		if c.Shared > 0 {
			what = "use the shared bastion: "
		}
		all = append(all, named{name, what + s.family(c), s.peoplePolicy(c)})
	}
	all = append(all,
		named{"admin", "look after everybody's bastions: gc, audit, cost, config share", s.adminPolicy()},
		named{"init", "what bastion init, plan, upgrade and destroy call", s.deployerPolicy()},
		named{"resources", "what CloudFormation calls for them: key, logs, images, cluster", s.handlerPolicy(handlers)},
		named{"roles", "what CloudFormation calls for them: roles, policies, transcripts", s.handlerPolicy(roleHandlers)},
		named{"network", "what CloudFormation calls for them: security groups, endpoints, alarms", s.handlerPolicy(networkHandlers)})
	out := make([]Document, len(all))
	for i, n := range all {
		text, err := indented(resolve(n.policy.document(), func(v any) any { return s.literal(v, p) }))
		if err != nil {
			return nil, fmt.Errorf("policy %s: %w", n.name, err)
		}
		out[i] = Document{n.name, n.description, text}
	}
	return out, nil
}

// literal is a reference's text at a place.
func (s *Stack) literal(v any, p Place) string {
	text := func(v any) string { return s.literal(v, p) }
	switch v := v.(type) {
	case Pseudo:
		return map[Pseudo]string{Partition: p.Partition, Region: p.Region, Account: p.Account}[v]
	case Text:
		return v.join(text)
	case Attr:
		switch v {
		case Attr{"Key", "Arn"}:
			return text(arn("kms", "key/*"))
		case Attr{"TaskRole", "Arn"}, Attr{"ExecutionRole", "Arn"}:
			return text(iamARN("role" + s.Inputs.Path + s.Inputs.Name + "-" + v.ID + "-*"))
		}
	}
	panic(fmt.Sprintf("account: no policy of people names %#v", v))
}
