package report

import (
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/fargate"
)

func TestTrouble(t *testing.T) {
	now := time.Date(2026, 1, 2, 10, 0, 0, 0, time.Local)
	for want, l := range map[string]Link{
		"":                          {},
		"denied; ask for access":    {Error: "denied", Next: "ask for access"},
		"lost; next try in 5s":      {Error: "lost", Retry: now.Add(5 * time.Second)},
		"lost; next try in 1s; now": {Error: "lost", Retry: now.Add(time.Millisecond), Next: "now"},
	} {
		if got := l.Trouble(now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := Trouble(now, "lost", "", now.Add(-90*time.Second), time.Time{}); got != "since 09:58:30 (1m30s): lost" {
		t.Error(got)
	}
}

func TestWords(t *testing.T) {
	for want, got := range map[string]string{
		"AWS starts no more than 1 session: quota":  (&SessionLimit{Sessions: 1, Reason: "quota"}).String(),
		"AWS starts no more than 2 sessions: quota": (&SessionLimit{Sessions: 2, Reason: "quota"}).String(),
		"0.25 vCPU, 0.5 GB":                         Size{CPU: 256, Memory: 512}.String(),
		"1 vCPU, 2 GB, about $0.0494 an hour":       Size{CPU: 1024, Memory: 2048, Cost: &fargate.Cost{PerHour: 0.04937}}.String(),
		"the task has 0.5 vCPU, 1 GB; 25 % of its CPU in use, 3 sessions": (&FarEnd{
			CPULimit: 0.5, CPUShare: 0.25, MemoryLimit: 1 << 30, Sessions: 3,
		}).String(),
		"the CPU is the limit": (&FarEnd{CPULimit: 1, Limit: "the CPU is the limit"}).String(),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (Size{CPU: 256}).String() + (&FarEnd{}).String(); got != "" {
		t.Errorf("of what is not known it says %q", got)
	}
}
