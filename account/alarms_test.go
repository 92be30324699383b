package account

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/config"
)

// matches reports whether a line of JSON has what a filter pattern of CloudWatch Logs wants: all of its comparisons.
func matches(t *testing.T, pattern, line string) bool {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Fatal(err)
	}
	inner, ok := strings.CutPrefix(pattern, "{ ")
	inner, closed := strings.CutSuffix(inner, " }")
	if !ok || !closed {
		t.Fatalf("the pattern %q", pattern)
	}
	comparison := regexp.MustCompile(`^\(?\$\.([a-z_]+) (=|>) ("[a-z-]+"|[0-9]+)\)?$`)
	for one := range strings.SplitSeq(inner, " && ") {
		m := comparison.FindStringSubmatch(one)
		if m == nil {
			t.Fatalf("the comparison %q", one)
		}
		switch m[2] {
		case "=":
			if fmt.Sprintf("%q", fields[m[1]]) != m[3] {
				return false
			}
		default:
			value, _ := fields[m[1]].(float64)
			if bound, err := strconv.ParseFloat(m[3], 64); err != nil || value <= bound {
				return false
			}
		}
	}
	return true
}

// Of the lines that bastiond writes, each alarm counts those that it is about, and no other.
func TestAlarmsReadTheAudit(t *testing.T) {
	s := newStack(t, Inputs{})
	filters := make(map[string]string) // patterns by metric
	for _, r := range s.Resources {
		if r.Type == "AWS::Logs::MetricFilter" {
			metric := r.at("MetricTransformations").(List)[0].(Object)
			filters[metric.get("MetricName").(string)] = r.at("FilterPattern").(string)
			alarm, _ := s.Resource(strings.TrimSuffix(r.ID, "Metric") + "Alarm")
			if alarm.at("MetricName") != metric.get("MetricName") || alarm.at("Namespace") != metric.get("MetricNamespace") || r.at("LogGroupName") != Ref("AuditLog") {
				t.Errorf("%s counts another metric than %+v", alarm.ID, r.Properties)
			}
		}
	}
	for want, r := range map[string]audit.Record{
		"denied": {Event: audit.Denied, Reason: "overdue"}, "grant-refused": {Event: audit.GrantRefused}, "overdue": {Event: audit.Overdue},
		"long-life": {Event: audit.Start, LifeS: 12*3600 + 1},
		"":          {Event: audit.Start, LifeS: 12 * 3600},
		" grant":    {Event: audit.Grant}, " connect": {Event: audit.Connect, Reason: audit.Denied}, " auth-refused": {Event: audit.AuthRefused},
		" stop": {Event: audit.Stop}, " drain": {Event: audit.Drain},
	} {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var counted []string
		for metric, pattern := range filters {
			if matches(t, pattern, string(line)) {
				counted = append(counted, metric)
			}
		}
		if got := strings.Join(counted, ","); got != want && !(got == "" && strings.HasPrefix(want, " ")) {
			t.Errorf("%s is counted as %q, want %q", line, got, want)
		}
	}
	if len(filters) != 4 {
		t.Errorf("%d metrics", len(filters))
	}
}

// fits reports whether a value fits one of an event pattern's alternatives, as EventBridge has them.
func fits(alternatives List, value string) bool {
	return slices.ContainsFunc(alternatives, func(a any) bool {
		rule, ok := a.(Object)
		if !ok {
			return a == value
		}
		if suffix, ok := rule.get("suffix").(string); ok {
			return strings.HasSuffix(value, suffix)
		}
		but := rule.get("anything-but").(Object)
		return !strings.HasPrefix(value, but.get("prefix").(string))
	})
}

// The rule tells of every command in the stack's cluster but the client's own, however the cluster is written.
func TestOtherCommands(t *testing.T) {
	rule, _ := newStack(t, Inputs{}).Resource("OtherCommand")
	wanted := rule.at("EventPattern.detail.requestParameters").(Object)
	settings, err := config.Load(config.Source{NoFile: true, LookupEnv: func(string) (string, bool) { return "", false }})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cluster, command string
		want             bool
	}{
		{"bastion", settings.Grant.Command + " eyJrZXkiOiJ4In0", false},
		{"bastion", "/bin/sh", true},
		{"bastion", "/bastiond serve", true},
		{"bastion", "/bastiond grantx", true},
		{"arn:aws:ecs:eu-central-1:111122223333:cluster/bastion", "sh", true},
		{"arn:aws:ecs:eu-central-1:111122223333:cluster/shop-bastion", "sh", false},
		{"shop", "sh", false},
	} {
		got := fits(wanted.get("cluster").(List), tt.cluster) && fits(wanted.get("command").(List), tt.command)
		if got != tt.want {
			t.Errorf("%q in %s: told %t, want %t", tt.command, tt.cluster, got, tt.want)
		}
	}
}
