package price

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fargate"
)

const (
	// monthHours is a month as AWS's own calculator has it.
	monthHours = 730
	// usualImage is the size of the image for both architectures in ECR, in bytes, if the caller knows none.
	usualImage = 24 << 20
	gigabyte   = 1 << 30
)

// Options are what a stack does not say about its cost.
type Options struct {
	Prices *Table // the operator's own; nil: the published ones
	// Fargate is the price by the settings price_vcpu_hour and price_gb_hour, if the operator has set them: see BySettings.
	Fargate    *fargate.Price
	ImageBytes int64 // in the repository; 0: the usual size
}

// BySettings returns Fargate's price by the settings price_vcpu_hour and price_gb_hour, or nil if these have their defaults: a table's
// prices are better, which differ between regions and architectures.
func BySettings(vcpuHour, gbHour float64) *fargate.Price {
	usual := Published().Regions[usual]
	if ofFloat(vcpuHour).Cmp(*usual.X86VCPUHour) == 0 && ofFloat(gbHour).Cmp(*usual.X86GBHour) == 0 {
		return nil
	}
	return &fargate.Price{VCPUHour: vcpuHour, GBHour: gbHour}
}

// Item is a part of the cost.
type Item struct {
	What     string `json:"what"`
	Quantity Amount `json:"quantity"`
	Unit     string `json:"unit"`  // of the quantity: "zone-hour"
	Price    Amount `json:"price"` // of one, in US dollars
	Source   string `json:"source"`
	Date     string `json:"date,omitempty"` // of the price; none for a setting
}

// Cost returns the item's exact cost in US dollars.
func (i Item) Cost() Amount { return i.Quantity.times(i.Price) }

// Total returns the exact sum of items. Only what is shown of it is rounded.
func Total(items []Item) (sum Amount) {
	for _, i := range items {
		sum = sum.plus(i.Cost())
	}
	return sum
}

// Estimate is what a stack costs, in US dollars, before taxes, discounts and free tiers.
type Estimate struct {
	Region   string   `json:"region"`
	PricesOf string   `json:"prices_of"` // the region whose prices these are
	Month    []Item   `json:"month"`     // a month in which nobody uses it
	Hour     []Item   `json:"hour"`      // each hour of a bastion
	Notes    []string `json:"notes"`
}

// Of estimates the cost of a stack.
func Of(s *account.Stack, o Options) Estimate {
	prices, of, source := find(s.Inputs.Region, o.Prices)
	e := &estimator{stack: s, options: o, prices: prices, source: source, estimate: Estimate{Region: s.Inputs.Region, PricesOf: of}}
	if of != s.Inputs.Region {
		e.note("prices of %s: the table has none of %s", of, cmp.Or(s.Inputs.Region, "a region, and the stack names none"))
	}
	e.month()
	e.hour()
	e.rest()
	return e.estimate
}

// estimator makes an estimate step by step.
type estimator struct {
	stack    *account.Stack
	options  Options
	prices   Prices
	source   string
	estimate Estimate
}

func (e *estimator) note(format string, args ...any) {
	e.estimate.Notes = append(e.estimate.Notes, fmt.Sprintf(format, args...))
}

// item is a part of the cost by the table's prices.
func (e *estimator) item(what string, quantity Amount, unit string, price *Amount) Item {
	return Item{What: what, Quantity: quantity, Unit: unit, Price: *price, Source: e.source, Date: e.prices.Date}
}

// number counts the stack's resources of a type.
func (e *estimator) number(kind string) (n int64) {
	for _, r := range e.stack.Resources {
		if r.Type == kind {
			n++
		}
	}
	return n
}

// month adds what costs something while nobody uses it.
func (e *estimator) month() {
	add := func(what string, quantity Amount, unit string, price *Amount) {
		if quantity.Cmp(Amount{}) > 0 {
			e.estimate.Month = append(e.estimate.Month, e.item(what, quantity, unit, price))
		}
	}
	for _, i := range e.service() {
		i.Quantity = i.Quantity.times(count(monthHours))
		e.estimate.Month = append(e.estimate.Month, i)
	}
	if endpoints := e.interfaces(); endpoints > 0 {
		zones := int64(len(e.stack.Inputs.Subnets))
		if zones == 0 {
			zones = 1
			e.note("interface endpoints: for one zone, because the stack names no subnets; each further one costs as much again")
		}
		add(fmt.Sprintf("%d interface endpoints in %d zones", endpoints, zones), count(endpoints*zones*monthHours), "endpoint-hour",
			e.prices.EndpointHour)
	}
	add("KMS key", count(e.number("AWS::KMS::Key")), "key-month", e.prices.KeyMonth)
	add("alarms", count(e.number("AWS::CloudWatch::Alarm")), "alarm-month", e.prices.AlarmMonth)
	if e.number("AWS::ECR::Repository") > 0 {
		add("image in ECR", fraction(cmp.Or(e.options.ImageBytes, usualImage), gigabyte), "GB-month", e.prices.ImageGBMonth)
	}
}

// interfaces counts the interface endpoints that the stack makes. A gateway endpoint costs nothing.
func (e *estimator) interfaces() (n int64) {
	for _, kind := range e.properties("AWS::EC2::VPCEndpoint", "VpcEndpointType") {
		if kind == "Interface" {
			n++
		}
	}
	return n
}

// properties are the values of a property in the stack's resources of a type.
func (e *estimator) properties(kind, name string) (values []any) {
	for _, r := range e.stack.Resources {
		for _, m := range r.Properties {
			if r.Type == kind && m.Name == name {
				values = append(values, m.Value)
			}
		}
	}
	return values
}

// service are the tasks of ECS services, which always run: what they cost an hour.
func (e *estimator) service() (items []Item) {
	var tasks int64
	for _, n := range e.properties("AWS::ECS::Service", "DesiredCount") {
		tasks += e.wanted(n)
	}
	if tasks == 0 {
		return nil
	}
	for _, i := range e.task() {
		i.What, i.Quantity = fmt.Sprintf("%s, of %d tasks that always run", i.What, tasks), i.Quantity.times(count(tasks))
		items = append(items, i)
	}
	return items
}

// wanted is a number of tasks: itself, or the default of the parameter that has it.
func (e *estimator) wanted(tasks any) int64 {
	switch n := tasks.(type) {
	case int:
		return int64(n)
	case account.Ref:
		i := slices.IndexFunc(e.stack.Parameters, func(p account.Parameter) bool { return p.Name == string(n) })
		if i >= 0 {
			number, _ := strconv.ParseInt(e.stack.Parameters[i].Default, 10, 64) // of the model, which has validated it
			return number
		}
	}
	return 0
}

// hour adds what a bastion costs while it runs.
func (e *estimator) hour() {
	e.estimate.Hour = []Item{}
	if e.number("AWS::ECS::TaskDefinition") == 0 {
		return
	}
	if len(e.stack.Inputs.SharedClasses()) == len(e.stack.Inputs.Classes) {
		e.note("nobody starts bastions of their own: the shared ones cost the same whether somebody uses them or not")
		return
	}
	e.estimate.Hour = e.task()
	if filters := e.number("AWS::Logs::MetricFilter"); filters > 0 {
		e.estimate.Hour = append(e.estimate.Hour,
			e.item("metrics of the audit log", fraction(filters, monthHours), "metric-month", e.prices.MetricMonth))
	}
	if len(e.properties("AWS::ECS::Cluster", "CapacityProviders")) > 0 {
		e.note("on Fargate Spot a task costs up to 70 %% less, at a price that changes: these are the prices without it")
	}
}

// task is what a task costs an hour.
func (e *estimator) task() []Item {
	in := e.stack.Inputs
	vcpu, memory, name := e.prices.X86VCPUHour, e.prices.X86GBHour, "x86"
	if in.Architecture == "ARM64" {
		vcpu, memory, name = e.prices.ARMVCPUHour, e.prices.ARMGBHour, "ARM"
	}
	items := []Item{
		e.item("Fargate vCPU, "+name, fraction(int64(in.CPU), 1024), "vCPU-hour", vcpu),
		e.item("Fargate memory, "+name, fraction(int64(in.Memory), 1024), "GB-hour", memory),
	}
	if own := e.options.Fargate; own != nil {
		items[0].Price, items[0].Source, items[0].Date = ofFloat(own.VCPUHour), "setting price_vcpu_hour", ""
		items[1].Price, items[1].Source, items[1].Date = ofFloat(own.GBHour), "setting price_gb_hour", ""
	}
	if in.PublicAddress {
		items = append(items, e.item("public IPv4 address", count(1), "address-hour", e.prices.AddressHour))
	}
	return items
}

// free are the types that cost nothing, or that other items and notes tell of.
var free = []string{
	"AWS::KMS::Key", "AWS::KMS::Alias", "AWS::Logs::LogGroup", "AWS::Logs::MetricFilter", "AWS::CloudWatch::Alarm", "AWS::ECR::Repository",
	"AWS::ECS::Cluster", "AWS::ECS::TaskDefinition", "AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::EC2::SecurityGroup",
	"AWS::EC2::SecurityGroupIngress", "AWS::EC2::VPCEndpoint", "AWS::SNS::Topic", "AWS::SNS::TopicPolicy", "AWS::SNS::Subscription",
	"AWS::Events::Rule", "AWS::S3::Bucket", "AWS::S3::BucketPolicy", "AWS::ECS::Service", "AWS::SSM::Document", "AWS::IAM::InstanceProfile",
	"AWS::EC2::LaunchTemplate", "AWS::AutoScaling::AutoScalingGroup", "AWS::AutoScaling::ScalingPolicy", "AWS::AutoScaling::ScheduledAction",
}

// rest notes what depends on use, and what the table knows no price of.
func (e *estimator) rest() {
	e.note("audit log: %s USD for a GB written, %s for a GB kept a month", e.prices.LogGB, e.prices.LogGBMonth)
	if e.interfaces() == 0 && !e.stack.Inputs.PublicAddress {
		e.note("a NAT gateway, or endpoints that exist, cost what they cost without bastions, and something for each GB")
	}
	if e.stack.Inputs.Insights {
		e.note("container insights cost by the metrics of each task: not in this estimate")
	}
	if e.number("AWS::S3::Bucket") > 0 {
		e.note("transcripts in S3 cost what S3 costs: not in this estimate")
	}
	if e.number("AWS::KMS::Key") > 0 {
		e.note("each of a KMS key's first two rotations, one a year, adds a key's price a month")
	}
	if e.number("AWS::AutoScaling::AutoScalingGroup") > 0 {
		e.note("not in this estimate: the EC2 instances, their volumes and their monitoring")
	}
	unknown := make(map[string]bool)
	for _, r := range e.stack.Resources {
		if !slices.Contains(free, r.Type) {
			unknown[r.Type] = true
		}
	}
	if len(unknown) > 0 {
		e.note("not in this estimate: %s", strings.Join(slices.Sorted(maps.Keys(unknown)), ", "))
	}
}
