package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/admin"
	"github.com/bastion-ssm/bastion/lab"
)

// adminPolicy is the policy that bastion iam-policy prints for operators, of the lab's stack.
func adminPolicy(t *testing.T) json.RawMessage {
	t.Helper()
	stack, err := account.New(account.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := stack.Documents(account.Place{Partition: "aws", Region: lab.Region, Account: lab.Account})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(d account.Document) bool { return d.Name == "admin" })
	return all[i].JSON
}

// gc stops the bastions of two users and not the task of a neighbour in the same cluster, whatever its age.
func TestGC(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	role := lab.IdentityConfig{Expires: time.Now().Add(time.Hour)}
	for _, name := range []string{"jo", "pat"} {
		if r := e.run(e.as(name, role), "up"); r.code != 0 {
			t.Fatalf("up of %s: %d\n%s", name, r.code, r.stderr)
		}
	}
	neighbour := e.runTask(e.marked(e.Env(), func(in *ecs.RunTaskInput) { in.StartedBy = aws.String("nightly-job") }))
	running := func() (ids []string) {
		for _, task := range e.Tasks() {
			if task.LastStatus != "STOPPED" {
				ids = append(ids, task.ID)
			}
		}
		return ids
	}

	everything := []string{"AWS_PROFILE=admin"}
	r := e.run(everything, "cost", "--by", "owner", "-o", "json")
	var cost admin.CostOutput
	if err := json.Unmarshal([]byte(r.stdout), &cost); err != nil || r.code != 0 || len(cost.Bastions) != 2 || len(cost.Groups) != 2 || cost.TotalUSD <= 0 {
		t.Errorf("%v: %+v", err, r)
	}
	if r := e.run(everything, "cost"); r.code != 0 || strings.Count(r.stdout, "RUNNING") != 2 || !strings.Contains(r.stdout, "total: about $") {
		t.Errorf("%+v", r)
	}
	// The admin's policy is enough for that, and gives no way into a bastion.
	admin := e.as("ops", lab.IdentityConfig{Policy: adminPolicy(t), Expires: time.Now().Add(time.Hour)})
	if r := e.run(admin, "cost"); r.code != 0 || strings.Count(r.stdout, "RUNNING") != 2 {
		t.Errorf("of the admin: %+v", r)
	}
	if r := e.run(admin, "up"); r.code != 5 {
		t.Errorf("an admin starts a bastion: %+v", r)
	}
	if r := e.run(admin, "gc"); r.code != 0 || !strings.Contains(r.stdout, "is past its life\n") || !strings.Contains(r.stdout, "2 younger bastions") {
		t.Errorf("young bastions: %+v", r)
	}
	dry := e.run(admin, "gc", "--older-than", "1ms", "--dry-run")
	if dry.code != 0 || strings.Count(dry.stdout, "would be stopped") != 2 || len(running()) != 3 {
		t.Errorf("a dry run: %+v; %d run", dry, len(running()))
	}
	r = e.run(admin, "gc", "--older-than", "1ms", "-o", "json")
	var out access.SweepResult
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.code != 0 || len(out.Expired) != 2 || out.DryRun {
		t.Fatalf("%v: %+v", err, r)
	}
	for _, s := range out.Expired {
		if s.TaskID == neighbour || s.Owner == "" || s.Created == nil {
			t.Errorf("%+v", s)
		}
	}
	eventually(t, "only the neighbour's task runs", func() bool { return slices.Equal(running(), []string{neighbour}) })
	// A user may not: the policy for users hides the others' tasks.
	if r := e.run(e.as("jo", role), "gc", "--older-than", "1ms"); r.code != 5 || !strings.Contains(r.stderr, "ecs:DescribeTasks") {
		t.Errorf("of a user: %+v", r)
	}
	if got := running(); !slices.Equal(got, []string{neighbour}) {
		t.Errorf("running: %q", got)
	}
}
