package deploy

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
)

// Event is a step of CloudFormation's, or of a Deployer's own where CloudFormation has none.
type Event struct {
	Time       time.Time
	Resource   string // logical id; that of the stack is its name
	Type       string // "AWS::ECS::Cluster"
	PhysicalID string
	Status     string // "CREATE_IN_PROGRESS"
	Reason     string
}

// Failed reports whether the resource failed by itself. What CloudFormation cancelled because another failed has not.
func (e Event) Failed() bool {
	return strings.HasSuffix(e.Status, "_FAILED") && e.Type != stackType && !strings.Contains(strings.ToLower(e.Reason), "cancelled")
}

const stackType = "AWS::CloudFormation::Stack"

// operation is a creation, change or deletion of a stack, by its events.
type operation struct {
	stack string // id
	token string // of the client that began it; empty: not known
	last  string // id of the newest event that is from before it, or has been told
	begun bool   // CloudFormation says that it has begun
	fails []Event
	final string // the stack's reason at the newest event of its own
}

// newest returns the newest event of the stack.
func (d *Deployer) newest(ctx context.Context, stack string) (types.StackEvent, error) {
	out, err := d.aws.DescribeStackEvents(ctx, &cloudformation.DescribeStackEventsInput{StackName: &stack})
	if err != nil {
		return types.StackEvent{}, d.fault("read the events of", "cloudformation:DescribeStackEvents", err)
	}
	if len(out.StackEvents) == 0 {
		return types.StackEvent{}, nil
	}
	return out.StackEvents[0], nil
}

// next tells the operation's events since the last call, in their order.
func (o *operation) next(ctx context.Context, d *Deployer, on func(Event)) error {
	var fresh []types.StackEvent
	in := &cloudformation.DescribeStackEventsInput{StackName: &o.stack}
pages:
	for {
		out, err := d.aws.DescribeStackEvents(ctx, in)
		if err != nil {
			return d.fault("read the events of", "cloudformation:DescribeStackEvents", err)
		}
		for _, e := range out.StackEvents { // the newest first
			if aws.ToString(e.EventId) == o.last {
				break pages
			}
			if !o.has(e) {
				if o.last == "" { // this operation's own are newer
					break pages
				}
				continue
			}
			fresh = append(fresh, e)
			if o.last == "" && aws.ToString(e.ResourceType) == stackType && aws.ToString(e.ResourceStatusReason) == "User Initiated" {
				break pages // with that it began
			}
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			break
		}
	}
	slices.Reverse(fresh)
	for _, e := range fresh {
		o.last = aws.ToString(e.EventId)
		o.take(e, on)
	}
	return nil
}

// has reports whether an event is the operation's. The events of a client without a token have none.
func (o *operation) has(e types.StackEvent) bool {
	token := aws.ToString(e.ClientRequestToken)
	return token == o.token || token == "" && o.last != ""
}

func (o *operation) take(e types.StackEvent, on func(Event)) {
	event := Event{
		Time: aws.ToTime(e.Timestamp), Resource: aws.ToString(e.LogicalResourceId), Type: aws.ToString(e.ResourceType),
		PhysicalID: aws.ToString(e.PhysicalResourceId), Status: string(e.ResourceStatus), Reason: aws.ToString(e.ResourceStatusReason),
	}
	o.begun = true
	if event.Failed() {
		o.fails = append(o.fails, event)
	}
	if event.Type == stackType && event.Reason != "" {
		o.final = event.Reason
	}
	if on != nil {
		on(event)
	}
}

// failure is how the operation failed, with the first resource that did. A resource that failed several times is named once.
func (o *operation) failure(s State) *Failure {
	f := &Failure{Status: s.Status, Reason: s.Reason}
	if f.Reason == "" {
		f.Reason = o.final
	}
	seen := make(map[string]bool)
	for _, e := range o.fails {
		switch {
		case seen[e.Resource]:
		case f.Resource == "":
			f.Resource, f.Type, f.Reason = e.Resource, e.Type, e.Reason
		default:
			f.Others = append(f.Others, e)
		}
		seen[e.Resource] = true
	}
	return f
}
