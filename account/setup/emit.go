package setup

import (
	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Forms are the forms of a stack for those who deploy it themselves.
var Forms = []string{"cfn", "terraform"}

// Emit returns the stack in one of the Forms.
func Emit(s *account.Stack, form string) ([]byte, error) {
	switch form {
	case "cfn":
		return s.CloudFormation()
	case "terraform":
		return s.Terraform()
	}
	return nil, fail.Usagef("use cfn or terraform", "%q is no form of a stack", form)
}
