package admin

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/account/billing"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/review"
	"github.com/bastion-ssm/bastion/account/setup"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/report"
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
	if err := writePlan(&out, p, false); err != nil ||
		!strings.Contains(out.String(), "would change nothing\nno drift was found\nnot compared") {
		t.Errorf("%v\n%s", err, &out)
	}
	out.Reset()
	p.pushes = true
	if err := writePlan(&out, p, false); err != nil ||
		!strings.Contains(out.String(), "nothing\nthe image in the repository is not looked at: bastion upgrade pushes") {
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
	if err := writeDestroyPlan(&out, d, p, false); err != nil ||
		!strings.Contains(out.String(), "in the way, because it is no bastion of the stack: task/other") {
		t.Errorf("%v\n%s", err, &out)
	}
	if got := destroyOutput(d, p).Others; len(got) != 1 || got[0] != "task/other" {
		t.Errorf("in JSON %q", got)
	}
}

// gc writes a line for each old bastion, and nothing that came from AWS starts a line of its own.
func TestWriteSwept(t *testing.T) {
	old := func(id, owner, fault string) access.SweptBastion {
		return access.SweptBastion{
			OwnedBastion: access.OwnedBastion{Bastion: report.Bastion{TaskID: id}, Owner: owner}, AgeSeconds: 50400, LifeSeconds: 45000, Error: fault,
		}
	}
	var out strings.Builder
	if err := writeSwept(&out, access.SweepResult{
		Cluster: "bastion", Expired: []access.SweptBastion{old("one", "AROA:ada\nbastion two", ""), old("three", "AROA:jo", "no")},
		Kept: []access.SweptBastion{{}, {}},
	}); err != nil {
		t.Fatal(err)
	}
	if err := writeSwept(&out, access.SweepResult{Cluster: "bastion"}); err != nil {
		t.Fatal(err)
	}
	const want = `bastion one of AROA:ada bastion two is being stopped: it is 14h old, of 12h30m
bastion three of AROA:jo could not be stopped: it is 14h old, of 12h30m
2 younger bastions left alone
no bastion in cluster bastion is past its life
`
	if out.String() != want {
		t.Errorf("\n%s\nwant\n%s", &out, want)
	}
}

// A bastion.yaml that is there stays, and the note has the lines of the one that init would have written.
func TestFileStays(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile(config.FileName, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	a := &program{invocation.New(invocation.Stdio{Out: io.Discard, Err: &out}, "")}
	made := setup.Settings{
		Region:         "eu-central-1",
		Cluster:        "data",
		TaskDefinition: "data",
		Subnets:        []string{"subnet-1"},
		SecurityGroup:  "sg-1",
	}
	if name, err := a.writeFile(config.Settings{}, made); err != nil || name != "" {
		t.Errorf("wrote %q, %v", name, err)
	}
	text, err := made.File()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line != "\n" && !strings.Contains(out.String(), "\n  "+line) {
			t.Errorf("%q lacks the line %q", &out, line)
		}
	}
	if got, err := os.ReadFile(config.FileName); err != nil || string(got) != "mine" {
		t.Errorf("the file has become %q, %v", got, err)
	}
}

// An empty name is neither every stack nor the default one, whatever the option lets pass.
func TestOpenStackNeedsName(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	a := &program{invocation.New(invocation.Stdio{Out: io.Discard, Err: io.Discard}, "")}
	gone := config.Settings{AWS: config.AWS{Profile: "gone"}}
	if _, err := a.openStack(t.Context(), gone, stackOptions{}); err == nil || !strings.Contains(err.Error(), `name ""`) {
		t.Errorf("without a name: %v", err)
	}
	if _, err := a.openStack(t.Context(), gone, stackOptions{name: "data"}); err == nil || !strings.Contains(err.Error(), `profile "gone"`) {
		t.Errorf("with one: %v", err)
	}
}

// CSV has names of columns, for programs; a table has words.
func TestCostColumns(t *testing.T) {
	began := time.Now().Add(-2 * time.Hour)
	all := []access.OwnedBastion{{Bastion: report.Bastion{TaskID: "t", Status: "RUNNING", Created: &began}, Owner: "o"}}
	bill := billing.Bill{By: "tag:team", Currency: "USD", Parts: []billing.Part{{Name: "data", Amount: 1}}}
	for _, full := range []bool{true, false} {
		for _, rows := range [][][]string{bastionCosts(all, full), groupCosts([]review.Spent{{Name: "o"}}, full), billedRows(bill, full)} {
			for _, name := range rows[0] {
				if isName := name == strings.ToLower(name) && !strings.Contains(name, " "); isName != full {
					t.Errorf("CSV %t: the column %q", full, name)
				}
			}
			if len(rows) != 2 || len(rows[0]) != len(rows[1]) {
				t.Errorf("%q", rows)
			}
		}
	}
	if age := bastionCosts(all, true)[1][5]; age != "7200" {
		t.Errorf("an age of %s", age)
	}
}

// A bastion whose life cannot be read is told, and not counted as a younger one.
func TestWriteUnknownLife(t *testing.T) {
	var out strings.Builder
	owned := func(id string) access.OwnedBastion {
		return access.OwnedBastion{Bastion: report.Bastion{TaskID: id}, Owner: "o"}
	}
	err := writeSwept(&out, access.SweepResult{Cluster: "c", Kept: []access.SweptBastion{
		{OwnedBastion: owned("a"), AgeSeconds: 60, Error: "not a duration"}, {OwnedBastion: owned("b"), AgeSeconds: 60},
	}})
	const want = "bastion a of o is left alone, 1m old: its life cannot be read\nno bastion in cluster c is past its life\n1 younger bastion left alone\n"
	if err != nil || out.String() != want {
		t.Errorf("%q, %v; want %q", out.String(), err, want)
	}
}
