package bastions

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fargate"
)

// The prices of Fargate on Linux/x86 in us-east-1.
var listPrice = fargate.Price{VCPUHour: 0.04048, GBHour: 0.004445}

func TestCost(t *testing.T) {
	begin := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name           string
		b              Bastion
		known          bool
		perHour, soFar float64
	}{
		{"the smallest", Bastion{Size: fargate.Size{CPU: 256, Memory: 512}, BilledFrom: begin}, true, 0.0123425, 0.0246850},
		{"1 vCPU, 2 GB", Bastion{Size: fargate.Size{CPU: 1024, Memory: 2048}, BilledFrom: begin}, true, 0.04937, 0.09874},
		{"not billed yet", Bastion{Size: fargate.Size{CPU: 256, Memory: 512}}, true, 0.0123425, 0},
		{"stopped after half an hour", Bastion{
			Size: fargate.Size{CPU: 256, Memory: 512}, BilledFrom: begin, StoppedAt: begin.Add(30 * time.Minute),
		}, true, 0.0123425, 0.00617125},
		{"a minute is the least", Bastion{
			Size: fargate.Size{CPU: 256, Memory: 512}, BilledFrom: begin, StoppedAt: begin.Add(time.Second),
		}, true, 0.0123425, 0.0123425 / 60},
		{"no size", Bastion{BilledFrom: begin}, false, 0, 0},
		{"no memory", Bastion{Size: fargate.Size{CPU: 256}, BilledFrom: begin}, false, 0, 0},
	} {
		c, known := tt.b.Cost(listPrice, begin.Add(2*time.Hour))
		if known != tt.known || !near(c.PerHour, tt.perHour) || !near(c.SoFar, tt.soFar) {
			t.Errorf("%s: %+v, %v; want %v an hour, %v so far, %v", tt.name, c, known, tt.perHour, tt.soFar, tt.known)
		}
		if known && c.Price != listPrice {
			t.Errorf("%s: the price %+v", tt.name, c.Price)
		}
	}
}

// An ARM task costs its own list price, unless the user has set one.
func TestCostOfARM(t *testing.T) {
	b := Bastion{Size: fargate.Size{CPU: 1024, Memory: 2048}, Architecture: "arm64"}
	for price, perHour := range map[fargate.Price]float64{listPrice: 0.0395, {VCPUHour: 1, GBHour: 1}: 3} {
		if c, known := b.Cost(price, time.Now()); !known || !near(c.PerHour, perHour) {
			t.Errorf("%+v: %+v", price, c)
		}
	}
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

// What ECS says of a task's size comes out of List, whatever else it may say.
func TestSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		pulled := time.Now().Add(-50 * time.Minute)
		f.mine(time.Hour, func(task *fakeTask) {
			running(&task.Task)
			task.Cpu, task.Memory, task.PullStartedAt = aws.String("256"), aws.String("512"), aws.Time(pulled)
			task.Attributes = []types.Attribute{{Name: aws.String("ecs.cpu-architecture"), Value: aws.String("arm64")}}
		})
		f.mine(2*time.Hour, func(task *fakeTask) { task.Cpu, task.Memory = aws.String("much"), nil })
		all, err := New(Config{ECS: f}).List(t.Context(), testSpec())
		if err != nil || len(all) != 2 {
			t.Fatalf("%+v, %v", all, err)
		}
		b := all[0]
		if b.Size != (fargate.Size{CPU: 256, Memory: 512}) || b.Architecture != "arm64" || !b.BilledFrom.Equal(pulled) {
			t.Errorf("%+v", b)
		}
		if b := all[1]; b.Size != (fargate.Size{}) || !b.BilledFrom.IsZero() {
			t.Errorf("%+v", b)
		}
	})
}
