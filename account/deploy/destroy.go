package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// DestroyPlan is what Destroy will remove, and what stays.
type DestroyPlan struct {
	State  State
	Tasks  []string   // ARNs of the bastions that run in the stack's cluster
	Others []string   // ARNs of other tasks there, in whose way Destroy will not be
	Remove []Resource // of the stack
	Keep   []Resource // the audit of this stack and of earlier ones of the name: removed only if DestroyOptions say so

	cluster            string
	families, services []string
}

// Nothing reports whether there is nothing of the stack, whatever it keeps.
func (p DestroyPlan) Nothing() bool { return p.State.Phase == None }

// DestroyOptions are choices of whoever destroys a stack.
type DestroyOptions struct {
	// Audit removes the audit too: log groups at once; keys after keyDays days, until which their deletion can be cancelled. A bucket with
	// transcripts stays in any case.
	Audit bool
}

// keyDays are the days until a KMS key is deleted, the longest that KMS takes.
const keyDays = 30

// Destroyed is what Destroy has done.
type Destroyed struct {
	Tasks     []string   `json:"tasks"`     // stopped
	Removed   []Resource `json:"removed"`   // of the stack, and of the audit
	Scheduled []Resource `json:"scheduled"` // keys that will be deleted after KeyDays days
	Kept      []Resource `json:"kept"`
	KeyDays   int        `json:"key_days,omitempty"`
}

// PlanDestroy returns what Destroy would do. It first waits, with events, for what CloudFormation is doing to the stack.
func (d *Deployer) PlanDestroy(ctx context.Context, on func(Event)) (p DestroyPlan, err error) {
	if p.State, err = d.Follow(ctx, on); err == nil {
		err = d.usable(p.State)
	}
	if err != nil {
		return p, err
	}
	if p.State.Phase != None && p.State.Phase != Review {
		if err := d.planStack(ctx, &p); err != nil {
			return p, err
		}
	}
	p.Keep = append(p.Keep, adoptedKeys(p.State.Adopted)...)
	earlier, err := d.Kept(ctx)
	if err != nil {
		return p, err
	}
	for _, r := range earlier {
		if !slices.ContainsFunc(p.Keep, r.isSame) {
			p.Keep = append(p.Keep, r)
		}
	}
	return p, nil
}

// isSame reports whether two resources are one. A key is named by its id or by its ARN.
func (r Resource) isSame(other Resource) bool {
	return r.Type == other.Type && (r.PhysicalID == other.PhysicalID || strings.HasSuffix(r.PhysicalID, "/"+other.PhysicalID) ||
		strings.HasSuffix(other.PhysicalID, "/"+r.PhysicalID))
}

// planStack divides the stack's resources, and finds the tasks in its cluster.
func (d *Deployer) planStack(ctx context.Context, p *DestroyPlan) error {
	resources, err := d.resources(ctx, p.State.ID)
	if err != nil {
		return err
	}
	keeps := retained(p.State.template)
	for _, r := range resources {
		if r.PhysicalID == "" || r.Status == string(types.ResourceStatusDeleteComplete) {
			continue
		}
		switch r.Type {
		case "AWS::ECS::Cluster":
			p.cluster = r.PhysicalID
		case "AWS::ECS::Service": // CloudFormation ends its tasks with it
			p.services = append(p.services, r.PhysicalID)
		case "AWS::ECS::TaskDefinition":
			_, family, _ := strings.Cut(r.PhysicalID, ":task-definition/")
			family, _, _ = strings.Cut(family, ":")
			p.families = append(p.families, family)
		}
		switch {
		case !keeps[r.ID]:
			p.Remove = append(p.Remove, r)
		case r.isAudit():
			p.Keep = append(p.Keep, r)
		}
	}
	return d.planTasks(ctx, p)
}

// retained are the resources that a template says to keep.
func retained(template []byte) map[string]bool {
	var t struct {
		Resources map[string]struct{ DeletionPolicy string }
	}
	_ = json.Unmarshal(template, &t) // usable has read it
	keeps := make(map[string]bool)
	for id, r := range t.Resources {
		keeps[id] = strings.HasPrefix(r.DeletionPolicy, "Retain")
	}
	return keeps
}

// Destroy does what the plan says, and tells its events. When it is interrupted, another plan has what is left.
func (d *Deployer) Destroy(ctx context.Context, p DestroyPlan, o DestroyOptions, on func(Event)) (Destroyed, error) {
	var done Destroyed
	if len(p.Others) > 0 {
		return done, fail.New(fail.Usage, "delete "+d.stack(), fmt.Errorf("tasks that are no bastions of it run in its cluster: %s",
			strings.Join(p.Others, ", ")), "stop them, and run the command again")
	}
	if p.State.Phase != None {
		if p.State.Protected {
			return done, d.protected()
		}
		if err := d.stopTasks(ctx, p, &done, on); err != nil {
			return done, err
		}
		if err := d.delete(ctx, p.State, on); err != nil {
			return done, err
		}
		done.Removed = append(done.Removed, p.Remove...)
	}
	for _, r := range p.Keep {
		if !o.Audit {
			done.Kept = append(done.Kept, r)
			continue
		}
		if err := d.removeKept(ctx, r, &done); err != nil {
			return done, err
		}
		if on != nil {
			on(Event{Resource: r.ID, Type: r.Type, PhysicalID: r.PhysicalID, Status: "AUDIT_REMOVED"})
		}
	}
	return done, nil
}

// removeKept removes a log group, or schedules a key's deletion. What has gone already is as good.
func (d *Deployer) removeKept(ctx context.Context, r Resource, done *Destroyed) error {
	switch r.Type {
	case typeLogs:
		_, err := d.aws.DeleteLogGroup(ctx, &cloudwatchlogs.DeleteLogGroupInput{LogGroupName: &r.PhysicalID})
		if err != nil && awsanswer.Of(err).Code != "ResourceNotFoundException" {
			return d.faultOn("delete the log group "+r.PhysicalID, "logs:DeleteLogGroup", "", err)
		}
		done.Removed = append(done.Removed, r)
	case typeKey:
		_, err := d.aws.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &r.PhysicalID, PendingWindowInDays: aws.Int32(keyDays)})
		switch awsanswer.Of(err).Code {
		case "NotFoundException", "KMSInvalidStateException": // it is being deleted
			err = nil
		}
		if err != nil {
			return d.faultOn("delete the KMS key "+r.PhysicalID, "kms:ScheduleKeyDeletion", "", err)
		}
		done.Scheduled, done.KeyDays = append(done.Scheduled, r), keyDays
	default:
		done.Kept = append(done.Kept, r)
	}
	return nil
}

// protected is the error of a stack with termination protection.
func (d *Deployer) protected() error {
	return fail.New(fail.Usage, "delete "+d.stack(), errors.New("its termination protection is on"),
		"aws cloudformation update-termination-protection --no-enable-termination-protection --stack-name "+d.name)
}
