package review

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/fail"
)

const (
	ada = "arn:aws:sts::000000000000:assumed-role/Dev/ada"
	bob = "arn:aws:sts::000000000000:assumed-role/Dev/bob"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// text is a line of bastiond's.
func text(at time.Time, r audit.Record) *string {
	r.Time = audit.Stamp(at)
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return aws.String(string(line))
}

// event is a line of a task's log, some seconds after noon.
func event(seconds int, task string, r audit.Record) types.FilteredLogEvent {
	return types.FilteredLogEvent{
		Message: text(noon.Add(time.Duration(seconds)*time.Second), r), LogStreamName: aws.String("task/bastion/" + task),
	}
}

// fake is a log group with these pages. The token of the page behind page n is n.
func fake(pages ...[]types.FilteredLogEvent) *Log {
	return &Log{Group: "/bastion", Region: "eu-central-1", filter: func(
		_ context.Context, in *cloudwatchlogs.FilterLogEventsInput, _ ...func(*cloudwatchlogs.Options),
	) (*cloudwatchlogs.FilterLogEventsOutput, error) {
		n := len(aws.ToString(in.NextToken))
		out := &cloudwatchlogs.FilterLogEventsOutput{Events: pages[n]}
		if n+1 < len(pages) {
			out.NextToken = aws.String(strings.Repeat("x", n+1))
		}
		return out, nil
	}}
}

func hour() Query { return Query{Range: Range{noon, noon.Add(time.Hour)}} }

func ptr(n int64) *int64 { return &n }

func ended(r audit.Record, up, down, ms int64) audit.Record {
	r.Event, r.BytesUp, r.BytesDown, r.DurationMS = audit.Close, &up, &down, &ms
	return r
}

// A connection's begin and end are one access, even if they are on several pages, one of which is empty. Numbers of another task are
// others, and what is not an audit line is none.
func TestAccesses(t *testing.T) {
	first := audit.Record{
		Event: audit.Connect, Result: audit.OK, Who: ada, Conn: 1, Channel: 1, Destination: "orders.test:5432", Address: "10.0.0.1:5432",
		DurationMS: ptr(3),
	}
	other := first
	other.Who, other.Destination = bob, "cache.test:6379"
	denied := audit.Record{Event: audit.Denied, Result: audit.Refused, Who: bob, Conn: 1, Channel: 2, Destination: "x.test:22", Reason: "no entry"}
	log := fake(
		[]types.FilteredLogEvent{
			event(1, "a", first), event(2, "b", other), {Message: aws.String("level=INFO msg=listening")}, {Message: aws.String(`{"event":"connect"}`)},
		},
		nil,
		[]types.FilteredLogEvent{event(4, "b", denied), event(3, "a", ended(first, 10, 20, 2000)), event(-10, "a", first), event(3600, "a", first)},
		[]types.FilteredLogEvent{event(9, "c", ended(other, 1, 2, 20_000)), event(9, "c", audit.Record{Event: audit.Grant, Who: ada})},
	)
	got, err := log.Accesses(t.Context(), hour())
	if err != nil {
		t.Fatal(err)
	}
	at := func(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	want := []Access{
		{
			Time: at(-11), Who: bob, Event: audit.Connect, Result: audit.OK, Destination: "cache.test:6379", Address: "10.0.0.1:5432",
			BytesUp: ptr(1), BytesDown: ptr(2), DurationMS: ptr(20_000), Bastion: "c",
		},
		{
			Time: at(1), Who: ada, Event: audit.Connect, Result: audit.OK, Destination: "orders.test:5432", Address: "10.0.0.1:5432",
			BytesUp: ptr(10), BytesDown: ptr(20), DurationMS: ptr(2000), Bastion: "a",
		},
		{
			Time: at(2), Who: bob, Event: audit.Connect, Result: audit.OK, Destination: "cache.test:6379", Address: "10.0.0.1:5432", Bastion: "b",
		},
		{Time: at(4), Who: bob, Event: audit.Denied, Result: audit.Refused, Destination: "x.test:22", Reason: "no entry", Bastion: "b"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	q := hour()
	q.Users, q.Destinations = []string{"nobody", "dev/BOB"}, []string{"cache.test"}
	if got, err = log.Accesses(t.Context(), q); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	q.Denied, q.Destinations = true, nil
	if got, err = log.Accesses(t.Context(), q); err != nil || len(got) != 1 || got[0].Event != audit.Denied {
		t.Errorf("%v, %v", got, err)
	}
}

// A total has each kind of end by itself.
// A line that the log driver stamps after the range's end belongs to the range in which bastiond wrote it, and to no other.
func TestLateLine(t *testing.T) {
	late := event(3599, "a", audit.Record{Event: audit.Connect, Result: audit.OK, Who: ada, Conn: 1, Channel: 1, Destination: "orders.test:5432"})
	stamp := noon.Add(time.Hour + time.Second).UnixMilli()
	log := &Log{Group: "/bastion", Region: "eu-central-1", filter: func(
		_ context.Context, in *cloudwatchlogs.FilterLogEventsInput, _ ...func(*cloudwatchlogs.Options),
	) (*cloudwatchlogs.FilterLogEventsOutput, error) {
		out := new(cloudwatchlogs.FilterLogEventsOutput)
		if *in.StartTime <= stamp && stamp <= *in.EndTime {
			out.Events = []types.FilteredLogEvent{late}
		}
		return out, nil
	}}
	for from, want := range map[time.Time]int{noon: 1, noon.Add(time.Hour): 0} {
		if got, err := log.Accesses(t.Context(), Query{Range: Range{from, from.Add(time.Hour)}}); err != nil || len(got) != want {
			t.Errorf("from %s: %v, %d accesses, want %d", from, err, len(got), want)
		}
	}
}

func TestSummarize(t *testing.T) {
	a := Access{Who: ada, Destination: "orders.test:5432", Event: audit.Connect}
	with := func(minute int, result string, up *int64) Access {
		b := a
		b.Time, b.Result, b.BytesUp, b.BytesDown = noon.Add(time.Duration(minute)*time.Minute), result, up, up
		return b
	}
	got := Summarize([]Access{
		with(2, audit.OK, ptr(10)), with(1, audit.Failed, ptr(5)), with(3, audit.Failed, nil), with(4, audit.Refused, nil), with(0, audit.OK, nil),
		{Who: ada, Destination: "cache.test:6379", Result: audit.OK, Time: noon},
	})
	want := []Total{
		{Who: ada, Destination: "cache.test:6379", Connections: 1, Open: 1, First: noon, Last: noon},
		{
			Who: ada, Destination: "orders.test:5432", Connections: 3, Failed: 1, Refused: 1, Open: 1, First: noon,
			Last: noon.Add(4 * time.Minute), BytesUp: 15, BytesDown: 15,
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A log that does not end, and one that does not exist, are errors.
func TestReadFails(t *testing.T) {
	for name, answer := range map[string]struct {
		err  error
		kind fail.Kind
		next string
	}{
		"the same page": {nil, fail.Other, "shorter"},
		"no group":      {&types.ResourceNotFoundException{Message: aws.String("no such group")}, fail.Usage, "--audit-log-group"},
		"canceled":      {context.Canceled, fail.Other, ""},
	} {
		log := &Log{Group: "/x", Region: "eu-central-1", filter: func(context.Context, *cloudwatchlogs.FilterLogEventsInput,
			...func(*cloudwatchlogs.Options),
		) (*cloudwatchlogs.FilterLogEventsOutput, error) {
			return &cloudwatchlogs.FilterLogEventsOutput{NextToken: aws.String("again")}, answer.err
		}}
		_, err := log.Accesses(t.Context(), hour())
		if fail.KindOf(err) != answer.kind || !strings.Contains(fail.NextOf(err), answer.next) || answer.err != nil && !errors.Is(err, answer.err) {
			t.Errorf("%s: %v (%v), next %q", name, err, fail.KindOf(err), fail.NextOf(err))
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"A*", "abc", true},
		{"*c", "abc", true},
		{"a*c", "ac", true},
		{"a*c", "a", false},
		{"ab*ba", "aba", false},
		{"*b*", "abc", true},
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"a*b*c", "axbxbxc", true},
		{"a*b*b", "ab", false},
	} {
		if Match(tt.pattern, tt.text) != tt.want {
			t.Errorf("%q, %q: not %t", tt.pattern, tt.text, tt.want)
		}
	}
	for pattern, want := range map[string]bool{ada: true, "ada": true, "Dev/ada": true, "dev/*": true, "da": false, "*/ada": true, "bob": false} {
		if MatchUser(pattern, ada) != want {
			t.Errorf("user %q: not %t", pattern, want)
		}
	}
	for pattern, want := range map[string]bool{"db.test": true, "db.test:5432": true, "db.test:1": false, "*.test": true, "db": false, "": false} {
		if MatchDestination(pattern, "db.test:5432") != want {
			t.Errorf("destination %q: not %t", pattern, want)
		}
	}
	if !MatchDestination("fd00::1", "[fd00::1]:5432") || MatchDestination("*", "") {
		t.Error("an IPv6 address, or none")
	}
}

func TestWhen(t *testing.T) {
	for text, want := range map[string]time.Time{
		"2026-11-30": noon.Add(-12 * time.Hour), "2026-11-30T12:00": noon, "2026-11-30 12:00": noon, "2026-11-30 12:00:00": noon,
		"2026-11-30T13:00:00+01:00": noon, "2026-11-30T12:00Z": noon,
	} {
		if got, err := Moment(text); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for text, want := range map[string]time.Duration{"24h": 24 * time.Hour, "30d": 720 * time.Hour, "90m": 90 * time.Minute} {
		if got, err := Ago(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1h", "0d", "d", "yesterday"} {
		if _, err := Ago(text); err == nil {
			t.Errorf("%q is a time span", text)
		}
		if _, err := Moment(text); err == nil {
			t.Errorf("%q is a moment", text)
		}
	}
	r, err := NewRange(noon, time.Hour, time.Time{}, noon.Add(-time.Hour))
	if err != nil || !r.From.Equal(noon.Add(-2*time.Hour)) || !r.To.Equal(noon.Add(-time.Hour)) {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := NewRange(noon, time.Hour, noon, noon); err == nil {
		t.Error("an empty range")
	}
}

// The names of the fields are a contract with logs that were written years ago.
func TestFieldsKeepTheirNames(t *testing.T) {
	const text = `{"time":"2026-11-30T12:00:01.000Z","event":"close","result":"ok","reason":"r","who":"w","grant":"g","key":"k","conn":1,"user":"u",` +
		`"client":"c","bond":"b","subflow":0,"channel":2,"request":"q","destination":"d","address":"a","bytes_up":3,"bytes_down":4,"duration_ms":5,` +
		`"not_after":"n","permit":["p"],"replaces":"s","version":"v","listen":["l"],"bond_listen":["m"],"allow":["x"],"limit":["y"],"host_key":"h",` +
		`"deadline":"z","vcpu":0.25,"memory_mib":512}`
	var r audit.Record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(r); err != nil || string(got) != text {
		t.Errorf("%s, %v", got, err)
	}
}
