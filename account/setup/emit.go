package setup

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Forms are the forms of a stack for those who deploy it themselves: a CloudFormation template, a Terraform module, plain JSON, and the
// policies of people.
var Forms = []string{"cfn", "terraform", "json", "policies"}

// Emit returns the stack in one of the Forms. place is what the policies name.
func Emit(s *account.Stack, place account.Place, form string) ([]byte, error) {
	switch form {
	case "cfn":
		return s.CloudFormation()
	case "terraform":
		return s.Terraform()
	case "json":
		return s.Plain()
	case "policies":
		return policies(s, place)
	}
	return nil, fail.Usagef("use cfn, terraform, json or policies", "%q is no form of a stack", form)
}

// policies are the policies of people in one JSON object, by name.
func policies(s *account.Stack, place account.Place) ([]byte, error) {
	documents, err := s.Documents(place)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, d := range documents {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", d.Name, d.JSON)
	}
	b.WriteByte('}')
	var out bytes.Buffer
	err = json.Indent(&out, b.Bytes(), "", "  ")
	out.WriteByte('\n')
	return out.Bytes(), err
}
