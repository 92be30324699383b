package review

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/fargate"
)

// A life ends with its stop, with now if the task runs, or with its last line; it begins with its start, also before the range.
func TestLives(t *testing.T) {
	small := audit.Record{Event: audit.Start, VCPU: 0.25, MemoryMiB: 512}
	stop := audit.Record{Event: audit.Stop, DurationMS: ptr(7200_000)}
	log := fake([]types.FilteredLogEvent{
		event(600, "a", small), event(601, "a", audit.Record{Event: audit.Grant, Who: ada}), event(602, "a", audit.Record{Event: audit.Grant, Who: bob}),
		event(1800, "a", audit.Record{Event: audit.Stop, DurationMS: ptr(1200_000)}),
		event(60, "before", stop),
		event(900, "killed", small), event(1000, "killed", audit.Record{Event: audit.Disconnect}), event(3000, "killed", audit.Record{Event: audit.Connect}),
		event(1200, "runs", audit.Record{Event: audit.Grant, Who: bob}),
	})
	got, err := log.Lives(t.Context(), hour().Range, func(task string) bool { return task == "runs" || task == "a" })
	if err != nil {
		t.Fatal(err)
	}
	at := func(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	size := fargate.Size{CPU: 256, Memory: 512}
	want := []Life{
		{Bastion: "before", From: at(0), To: at(60), Stopped: true},
		{Bastion: "runs", Who: bob, From: at(0), To: at(3600)},
		{Bastion: "a", Who: ada, From: at(600), To: at(1800), Stopped: true, Size: size},
		{Bastion: "killed", From: at(900), To: at(1000), Size: size},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	price := fargate.Price{VCPUHour: 0.04, GBHour: 0.004}
	spent := Spend(got, price, fargate.Size{CPU: 1024, Memory: 2048})
	total := []Spent{
		{Name: bob, Bastions: 1, Hours: 1, USD: 0.048, Assumed: 1},
		{Name: ada, Bastions: 1, Hours: 1. / 3, USD: 0.004},
		{Name: "", Bastions: 2, Hours: 160. / 3600, USD: 60./3600*0.048 + 100./3600*0.012, Assumed: 1},
	}
	if d := cmp.Diff(total, spent, cmpopts.EquateApprox(1e-9, 0)); d != "" {
		t.Error(d)
	}
}

func TestMonth(t *testing.T) {
	day := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	for text, want := range map[string]Range{
		"this": {day(11, 1), noon}, "2026-11": {day(11, 1), noon}, "2026-10": {day(10, 1), day(11, 1)},
	} {
		if got, err := Month(text, noon); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "2026-12", "2026-13", "11", "last"} {
		if r, err := Month(text, noon); err == nil {
			t.Errorf("%q is %v", text, r)
		}
	}
}
