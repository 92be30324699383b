package setup

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account/deploy"
)

// A plan says why a resource changes, and that it is replaced, or may be.
func TestShownChanges(t *testing.T) {
	var out strings.Builder
	s := Shown{Resources: []deploy.Change{
		{Action: "Modify", Resource: "Repository", Type: "AWS::ECR::Repository", Replacement: "Conditional", Properties: []string{"Tags"}},
		{Action: "Modify", Resource: "Key", Type: "AWS::KMS::Key", Replacement: "True"},
	}}
	if err := s.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"  modify  Repository  AWS::ECR::Repository  Tags; perhaps replaced\n", "  modify  Key         AWS::KMS::Key         replaced\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
