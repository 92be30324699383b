package admin

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account/deploy"
)

// A plan names what changes and why, what others have changed, and what CloudFormation cannot compare.
func TestWritePlan(t *testing.T) {
	p := PlanOutput{
		Stack: "bastion", Region: "eu-central-1", Version: "1.0.0", Program: "1.1.0",
		Images: []newImage{{"read", "1.0.0-a", "1.1.0-b"}},
		Changes: []deploy.Change{
			{Action: "Modify", Resource: "TaskDefinition", Type: "AWS::ECS::TaskDefinition", Replacement: "True", Properties: []string{"Cpu", "Memory"}},
			{Action: "Remove", Resource: "Old\x1b[2J", Type: "AWS::SNS::Topic"},
			{Action: "Modify", Resource: "Key", Type: "AWS::KMS::Key", Replacement: "Conditional"},
		},
		Drift: &deploy.Drift{
			Resources: []deploy.ResourceDrift{{
				Resource:    deploy.Resource{ID: "AuditLog", Type: "AWS::Logs::LogGroup", PhysicalID: "/bastion", Status: "MODIFIED"},
				Differences: []deploy.Difference{{Property: "/RetentionInDays", Kind: "NOT_EQUAL", Expected: "365", Actual: "7"}},
			}},
			Unchecked:  []deploy.Resource{{ID: "KeyAlias"}, {ID: "OtherCommand"}},
			Incomplete: "no permission",
		},
	}
	var out strings.Builder
	if err := writePlan(&out, p, false); err != nil {
		t.Fatal(err)
	}
	const want = `stack bastion in eu-central-1, deployed by bastion 1.0.0; this is 1.1.0
bastion upgrade would change 3 resources:
  modify  TaskDefinition  AWS::ECS::TaskDefinition  Cpu, Memory; replaced
  remove  Old?[2J         AWS::SNS::Topic           -
  modify  Key             AWS::KMS::Key             perhaps replaced
  image of read: 1.1.0-b, now 1.0.0-a
1 resource changed outside CloudFormation:
  AuditLog (AWS::Logs::LogGroup) /bastion: modified
    /RetentionInDays: 365 in the stack, now 7
CloudFormation could not compare everything: no permission
not compared: KeyAlias, OtherCommand
`
	if out.String() != want {
		t.Errorf("\n%s\nwant\n%s", &out, want)
	}
	if !p.differs() {
		t.Error("nothing differs")
	}
	p.Changes, p.Images, p.Drift = nil, nil, &deploy.Drift{Unchecked: p.Drift.Unchecked}
	if p.differs() {
		t.Error("what cannot be compared differs")
	}
	out.Reset()
	if err := writePlan(&out, p, false); err != nil || !strings.Contains(out.String(), "would change nothing\nno drift was found\nnot compared") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// What was removed, what will be, and what stays is told, with what there is to do about it.
func TestWriteDestroyed(t *testing.T) {
	d := &stackSession{name: "bastion", region: "eu-central-1"}
	var out strings.Builder
	if err := writeDestroyed(&out, d, deploy.Destroyed{
		Tasks: []string{"task"}, Removed: []deploy.Resource{{}, {}}, KeyDays: 30,
		Scheduled: []deploy.Resource{{ID: "Key", Type: "AWS::KMS::Key", PhysicalID: "k"}},
		Kept:      []deploy.Resource{{ID: "AuditBucket", Type: "AWS::S3::Bucket", PhysicalID: "b"}},
	}); err != nil {
		t.Fatal(err)
	}
	const want = `2 resources of the stack bastion removed, 1 bastion stopped
the key k will be deleted in 30 days: aws kms cancel-key-deletion --key-id k saves it
empty the bucket b in the S3 console, all versions, and then: aws s3 rb s3://b
what stays in eu-central-1:
  AuditBucket (AWS::S3::Bucket) b
`
	if out.String() != want {
		t.Errorf("\n%s\nwant\n%s", &out, want)
	}
}

// What is in destroy's way is in its plan, as text and as JSON.
func TestDestroyPlanNamesOthers(t *testing.T) {
	d, p := &stackSession{name: "bastion", region: "eu-central-1"}, deploy.DestroyPlan{State: deploy.State{Phase: deploy.Ready}, Others: []string{"task/other"}}
	var out strings.Builder
	if err := writeDestroyPlan(&out, d, p, false); err != nil || !strings.Contains(out.String(), "in the way, because it is no bastion of the stack: task/other") {
		t.Errorf("%v\n%s", err, &out)
	}
	if got := destroyOutput(d, p).Others; len(got) != 1 || got[0] != "task/other" {
		t.Errorf("in JSON %q", got)
	}
}
