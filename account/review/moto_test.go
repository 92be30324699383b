package review

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// All pages are read of an emulator that is not ours. moto 5.2.1 knows no JSON patterns: it sends all events, and the reader chooses.
func TestMoto(t *testing.T) {
	cfg := aws.Config{
		Region: "eu-central-1", BaseEndpoint: aws.String(rig.Moto(t)), HTTPClient: rig.MotoClient(t),
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "not-a-key", ""),
	}
	logs := cloudwatchlogs.NewFromConfig(cfg)
	if _, err := logs.CreateLogGroup(t.Context(), &cloudwatchlogs.CreateLogGroupInput{LogGroupName: aws.String("/bastion")}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	const tasks, each = 3, 20
	for task := range tasks {
		stream := fmt.Sprintf("task/bastion/%d", task)
		if _, err := logs.CreateLogStream(t.Context(), &cloudwatchlogs.CreateLogStreamInput{
			LogGroupName: aws.String("/bastion"), LogStreamName: aws.String(stream),
		}); err != nil {
			t.Fatal(err)
		}
		var events []types.InputLogEvent
		for n := range each {
			r := audit.Record{Event: audit.Connect, Result: audit.OK, Who: ada, Conn: 1, Channel: uint64(n + 1), Destination: "orders.test:5432"}
			for i, r := range []audit.Record{r, ended(r, 1, 2, 1000), {Event: audit.SubflowJoin}} {
				at := begin.Add(time.Duration(n)*time.Minute + time.Duration(i)*time.Second)
				events = append(events, types.InputLogEvent{Timestamp: aws.Int64(at.UnixMilli()), Message: text(at, r)})
			}
		}
		if _, err := logs.PutLogEvents(t.Context(), &cloudwatchlogs.PutLogEventsInput{
			LogGroupName: aws.String("/bastion"), LogStreamName: aws.String(stream), LogEvents: events,
		}); err != nil {
			t.Fatal(err)
		}
	}
	log := Open(cfg, "/bastion")
	log.page = 7
	all := Query{Range: Range{begin, begin.Add(time.Hour)}}
	got, err := log.Accesses(t.Context(), all)
	if err != nil || len(got) != tasks*each {
		t.Fatalf("%d accesses, want %d; %v", len(got), tasks*each, err)
	}
	for _, a := range got {
		if a.BytesUp == nil || *a.BytesDown != 2 {
			t.Errorf("the end of %+v is missing", a)
		}
	}
	total := Summarize(got)
	if len(total) != 1 || total[0].Connections != tasks*each || total[0].BytesDown != 2*tasks*each || !total[0].First.Equal(begin) {
		t.Errorf("%+v", total)
	}
	all.To = begin.Add(5 * time.Minute)
	if got, err = log.Accesses(t.Context(), all); err != nil || len(got) != tasks*5 {
		t.Errorf("%d accesses in five minutes, %v", len(got), err)
	}
	if _, err = Open(cfg, "/other").Accesses(t.Context(), all); fail.KindOf(err) != fail.Usage {
		t.Errorf("a group that does not exist: %v", err)
	}
}
