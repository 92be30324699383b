package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"golang.org/x/net/proxy"

	"github.com/bastion-ssm/bastion/account/review"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/admin"
	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/lab"
)

// logsOf makes a log group on moto with what a task of the lab wrote to its standard output, as ECS's log driver does. It returns the
// environment of a command that reads it.
func logsOf(t *testing.T, e *labEnv, group, task string) []string {
	t.Helper()
	moto := rig.Moto(t)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	logs := cloudwatchlogs.NewFromConfig(aws.Config{
		Region: "eu-central-1", BaseEndpoint: &moto, HTTPClient: client,
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "not-a-key", ""),
	})
	stream := aws.String("task/bastion/" + task)
	if _, err := logs.CreateLogGroup(t.Context(), &cloudwatchlogs.CreateLogGroupInput{LogGroupName: &group}); err != nil {
		t.Fatal(err)
	}
	if _, err := logs.CreateLogStream(t.Context(), &cloudwatchlogs.CreateLogStreamInput{LogGroupName: &group, LogStreamName: stream}); err != nil {
		t.Fatal(err)
	}
	stdout, _, err := e.TaskOutput(task)
	if err != nil {
		t.Fatal(err)
	}
	var events []types.InputLogEvent
	for line := range strings.Lines(string(stdout)) {
		var r struct{ Time time.Time }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		events = append(events, types.InputLogEvent{
			Timestamp: aws.Int64(r.Time.UnixMilli()), Message: aws.String(strings.TrimSuffix(line, "\n")),
		})
	}
	if _, err := logs.PutLogEvents(t.Context(), &cloudwatchlogs.PutLogEventsInput{
		LogGroupName: &group, LogStreamName: stream, LogEvents: events,
	}); err != nil {
		t.Fatal(err)
	}
	return []string{
		"AWS_ENDPOINT_URL=" + moto, "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key",
		"BASTION_AUDIT_LOG_GROUP=" + group,
	}
}

// What a bastiond wrote is what bastion audit tells: who reached what, with its bytes, and what was refused.
func TestAuditOfBastiond(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	p := e.start(nil, "socks", "--permit", lab.WebHost+":80", ":")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	line, err := p.Line(ctx, 0)
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "socks5h://")
	if err != nil || !ok {
		t.Fatalf("%q, %v\n%s", line, err, p.Output())
	}
	dialer, err := proxy.SOCKS5("tcp", addr, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Dial("tcp", lab.WebHost+":80")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", lab.WebHost)
	page, err := io.ReadAll(conn)
	_ = conn.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialer.Dial("tcp", "nowhere.test:81"); err == nil {
		t.Fatal("a destination that the grant does not have was reached")
	}
	tasks := e.Tasks()
	if len(tasks) != 1 {
		t.Fatalf("%d tasks", len(tasks))
	}
	e.stop(p, syscall.SIGINT, 130)
	eventually(t, "the end of the connection in the audit log", func() bool {
		stdout, _, err := e.TaskOutput(tasks[0].ID)
		return err == nil && strings.Contains(string(stdout), `"event":"disconnect"`)
	})
	env := logsOf(t, e, "/audited", tasks[0].ID)

	// The task runs still: its cost goes on.
	r := e.run([]string{"AWS_ENDPOINT_URL_CLOUDWATCH_LOGS=" + strings.TrimPrefix(env[0], "AWS_ENDPOINT_URL="), env[4]}, "cost", "--month", "this", "-o", "json")
	var cost admin.CostOutput
	if err := json.Unmarshal([]byte(r.stdout), &cost); err != nil || r.code != 0 || len(cost.Groups) != 1 {
		t.Fatalf("%v: %s%s", err, r.stdout, r.stderr)
	}
	if g := cost.Groups[0]; !strings.HasPrefix(g.Name, "arn:") || g.Bastions != 1 || g.USD <= 0 || g.Assumed != 0 || cost.TotalUSD != g.USD {
		t.Errorf("%+v", cost)
	}

	// The log outlives the cluster.
	r = e.run(append(e.as("admin", lab.IdentityConfig{Allow: []string{"*"}}), "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS="+strings.TrimPrefix(env[0], "AWS_ENDPOINT_URL="),
		env[4]), "cost", "--month", "this", "--cluster", "gone", "-o", "json")
	cost = admin.CostOutput{}
	if err := json.Unmarshal([]byte(r.stdout), &cost); err != nil || r.code != 0 || len(cost.Groups) != 1 || cost.Groups[0].Bastions != 1 {
		t.Errorf("without the cluster: %v: %+v", err, r)
	}

	var out admin.AuditOutput
	r = e.run(env, "audit", "--since", "1h", "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.code != 0 {
		t.Fatalf("%v: %s%s", err, r.stdout, r.stderr)
	}
	reached := slices.IndexFunc(out.Accesses, func(a review.Access) bool { return a.Destination == lab.WebHost+":80" && a.Result == audit.OK })
	refused := slices.IndexFunc(out.Accesses, func(a review.Access) bool { return a.Event == audit.Denied })
	if reached < 0 || refused < 0 {
		t.Fatalf("no connection, or no refusal, in %s", r.stdout)
	}
	got := out.Accesses[reached]
	if got.BytesDown == nil || *got.BytesDown < int64(len(page)) || *got.BytesUp == 0 || got.DurationMS == nil || got.Bastion != tasks[0].ID ||
		!strings.HasPrefix(got.Who, "arn:") || got.Grant == "" || got.Address == "" || time.Since(got.Time) > time.Hour {
		t.Errorf("the connection is told as %+v", got)
	}
	if no := out.Accesses[refused]; no.Reason == "" || no.Destination != "nowhere.test:81" || no.Who != got.Who {
		t.Errorf("the refusal is told as %+v", no)
	}

	table := e.run(env, "audit", "--destination", "wiki.*")
	if table.code != 0 || !strings.Contains(table.stdout, lab.WebHost+":80") || strings.Contains(table.stdout, "nowhere") {
		t.Errorf("%+v", table)
	}
	summary := e.run(env, "audit", "--summary", "-o", "csv")
	rows, err := csv.NewReader(strings.NewReader(summary.stdout)).ReadAll()
	if err != nil || len(rows) < 3 || rows[0][0] != "user" {
		t.Errorf("%v, %v, %s", rows, err, summary.stderr)
	}
	if r := e.run(env, "audit", "--user", "nobody"); r.code != 0 || !strings.Contains(r.stdout, "no such access") {
		t.Errorf("%+v", r)
	}
	if r := e.run(env, "audit", "--denied", "--audit-log-group", "/missing"); r.code != 2 || !strings.Contains(r.stderr, "--audit-log-group") {
		t.Errorf("%+v", r)
	}
}
