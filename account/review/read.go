package review

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Filter is CloudWatch Logs' FilterLogEvents. It is a single call and not a client, so that the linker keeps no other.
type Filter = func(context.Context, *cloudwatchlogs.FilterLogEventsInput, ...func(*cloudwatchlogs.Options)) (
	*cloudwatchlogs.FilterLogEventsOutput, error)

// Log is a log group with bastiond's audit lines.
type Log struct {
	Group  string
	Region string // for messages
	filter Filter
	page   int32 // the most events of a page; 0: AWS's default
}

// Open returns the log of a group. It calls nothing.
func Open(cfg aws.Config, group string) *Log {
	return &Log{Group: group, Region: cfg.Region, filter: cloudwatchlogs.NewFromConfig(cfg).FilterLogEvents}
}

// Range is a time range: its begin belongs to it, its end does not.
type Range struct{ From, To time.Time }

// line is an audit line with the task that wrote it.
type line struct {
	audit.Record
	at   time.Time
	task string // ID
}

// lateness is how much later than bastiond the log driver may say that a line was written. CloudWatch Logs chooses by the driver's time,
// and a range is of bastiond's: without it, a line of a range's last moment would be in neither that range nor the next.
const lateness = 5 * time.Minute

// read calls each with every line of the events in the range, as CloudWatch Logs orders them. It skips lines that are not bastiond's audit:
// the program's own messages are in the same streams.
func (l *Log) read(ctx context.Context, r Range, events []string, each func(line)) error {
	op := "read the audit log " + l.Group + " in " + l.Region
	in := &cloudwatchlogs.FilterLogEventsInput{
		LogGroupName: aws.String(l.Group), FilterPattern: aws.String(pattern(events)),
		StartTime: aws.Int64(r.From.UnixMilli()), EndTime: aws.Int64(r.To.Add(lateness).UnixMilli()),
	}
	if l.page > 0 {
		in.Limit = aws.Int32(l.page)
	}
	wanted := make(map[string]bool, len(events))
	for _, e := range events {
		wanted[e] = true
	}
	for {
		out, err := l.filter(ctx, in)
		if err != nil {
			return l.failed(op, err)
		}
		for _, e := range out.Events {
			if found, ok := parse(e); ok && wanted[found.Event] && !found.at.Before(r.From) && found.at.Before(r.To) {
				each(found)
			}
		}
		next := aws.ToString(out.NextToken) // a page may be empty and not be the last
		if next == "" {
			return nil
		}
		if next == aws.ToString(in.NextToken) {
			return fail.New(fail.Other, op, errors.New("CloudWatch Logs answers with the same page again"), "try again, or a shorter time range")
		}
		in.NextToken = aws.String(next)
	}
}

func (l *Log) failed(op string, err error) error {
	wrapped := fail.AdminAWS(fail.Other, op, "logs:FilterLogEvents", "", err)
	if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
		return fail.New(fail.Usage, "", wrapped, "name the stack's log group with --audit-log-group (it is / and the stack's name), and check the region")
	}
	return wrapped
}

// pattern lets CloudWatch Logs send these events alone.
func pattern(events []string) string {
	terms := make([]string, len(events))
	for i, e := range events {
		terms[i] = fmt.Sprintf("($.event = %q)", e)
	}
	return "{ " + strings.Join(terms, " || ") + " }"
}

// parse reads an event of the log group. Its time is bastiond's own; CloudWatch's is that of the log driver.
func parse(e types.FilteredLogEvent) (found line, ok bool) {
	if json.Unmarshal([]byte(aws.ToString(e.Message)), &found.Record) != nil {
		return line{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, found.Time)
	if err != nil {
		return line{}, false
	}
	stream := aws.ToString(e.LogStreamName) // PREFIX/CONTAINER/TASK
	found.at, found.task = at, stream[strings.LastIndexByte(stream, '/')+1:]
	return found, true
}
