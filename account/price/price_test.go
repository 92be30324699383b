package price

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fargate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStack(t *testing.T, in account.Inputs) *account.Stack {
	t.Helper()
	s, err := account.New(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lines are items as text.
func lines(items []Item) (out []string) {
	for _, i := range items {
		out = append(out, fmt.Sprintf("%s: %s %s * %s = %s", i.What, i.Quantity, i.Unit, i.Price, i.Cost()))
	}
	return out
}

// Each part is its quantity by its price, exactly.
func TestOf(t *testing.T) {
	for name, tt := range map[string]struct {
		in          account.Inputs
		o           Options
		month, hour []string
	}{
		"endpoints in two zones": {
			in: account.Inputs{
				Region: "eu-central-1", Architecture: "ARM64", Endpoints: account.Endpoints{Make: true}, Subnets: []string{"subnet-1", "subnet-2"},
			},
			month: []string{
				"5 interface endpoints in 2 zones: 7300 endpoint-hour * 0.012 = 87.6",
				"KMS key: 1 key-month * 1 = 1",
				"alarms: 4 alarm-month * 0.1 = 0.4",
				"image in ECR: 0.0234375 GB-month * 0.1 = 0.00234375",
			},
			hour: []string{
				"Fargate vCPU, ARM: 1 vCPU-hour * 0.03725 = 0.03725",
				"Fargate memory, ARM: 2 GB-hour * 0.00409 = 0.00818",
				"metrics of the audit log: 0.005479452055 metric-month * 0.3 = 0.001643835616",
			},
		},
		"S3's gateway endpoint alone, a key of one's own, a public address, a small task": {
			in: account.Inputs{
				Region: "us-west-2", Key: "arn:aws:kms:us-west-2:000000000000:key/k", CPU: 256, Memory: 512,
				Endpoints: account.Endpoints{Make: true, Services: []string{"s3"}}, PublicAddress: true,
			},
			o:     Options{ImageBytes: 1 << 30},
			month: []string{"alarms: 4 alarm-month * 0.1 = 0.4", "image in ECR: 1 GB-month * 0.1 = 0.1"},
			hour: []string{
				"Fargate vCPU, x86: 0.25 vCPU-hour * 0.04048 = 0.01012",
				"Fargate memory, x86: 0.5 GB-hour * 0.004445 = 0.0022225",
				"public IPv4 address: 1 address-hour * 0.005 = 0.005",
				"metrics of the audit log: 0.005479452055 metric-month * 0.3 = 0.001643835616",
			},
		},
		"the settings' price": {
			in:    account.Inputs{Region: "us-east-1"},
			o:     Options{Fargate: &fargate.Price{VCPUHour: 0.1, GBHour: 0.2}},
			month: []string{"KMS key: 1 key-month * 1 = 1", "alarms: 4 alarm-month * 0.1 = 0.4", "image in ECR: 0.0234375 GB-month * 0.1 = 0.00234375"},
			hour: []string{
				"Fargate vCPU, x86: 1 vCPU-hour * 0.1 = 0.1", "Fargate memory, x86: 2 GB-hour * 0.2 = 0.4",
				"metrics of the audit log: 0.005479452055 metric-month * 0.3 = 0.001643835616",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := Of(newStack(t, tt.in), tt.o)
			if got := lines(e.Month); !slices.Equal(got, tt.month) {
				t.Errorf("a month: %q, want %q", got, tt.month)
			}
			if got := lines(e.Hour); !slices.Equal(got, tt.hour) {
				t.Errorf("an hour: %q, want %q", got, tt.hour)
			}
			if e.Region != tt.in.Region || e.PricesOf != tt.in.Region {
				t.Errorf("%s, prices of %s", e.Region, e.PricesOf)
			}
			for _, i := range append(e.Month, e.Hour...) {
				if setting := tt.o.Fargate != nil && strings.HasPrefix(i.What, "Fargate"); i.Source == "" || setting != (i.Date == "") {
					t.Errorf("%s: source %q, date %q", i.What, i.Source, i.Date)
				}
			}
		})
	}
}

// A sum is rounded once: the exact parts, not what is shown of them.
func TestTotal(t *testing.T) {
	third := Item{Quantity: fraction(1, 3), Price: count(1)}
	if got := Total([]Item{third, third, third}); got.Cmp(count(1)) != 0 || got.Round(2) != "1.00" {
		t.Errorf("three thirds are %s", got)
	}
	cent := Item{Quantity: count(1), Price: fraction(4, 1000)}
	if got := Total([]Item{cent, cent}).Round(2); got != "0.01" {
		t.Errorf("two of 0.4 cents are %s", got)
	}
	if got := Total(nil).Round(2); got != "0.00" {
		t.Errorf("nothing is %s", got)
	}
}

// notes has whether a note says something.
func says(e Estimate, text string) bool {
	return slices.ContainsFunc(e.Notes, func(note string) bool { return strings.Contains(note, text) })
}

// A region without prices has those of us-east-1, and the estimate says so.
func TestUnknownRegion(t *testing.T) {
	for region, text := range map[string]string{"mx-central-1": "the table has none of mx-central-1", "": "the stack names none"} {
		e := Of(newStack(t, account.Inputs{Region: region}), Options{})
		if e.PricesOf != "us-east-1" || !says(e, "prices of us-east-1: ") || !says(e, text) || e.Hour[0].Price.String() != "0.04048" {
			t.Errorf("%q: %+v", region, e)
		}
	}
}

// What the estimate leaves out, it names.
func TestNotes(t *testing.T) {
	s := newStack(t, account.Inputs{Region: "us-east-1", Insights: true, ExecLogs: true, Endpoints: account.Endpoints{Make: true}})
	e := Of(s, Options{})
	for _, text := range []string{"0.5 USD for a GB written, 0.03 for", "container insights", "transcripts in S3", "rotations", "for one zone"} {
		if !says(e, text) {
			t.Errorf("nothing says %q: %q", text, e.Notes)
		}
	}
	if says(e, "not in this estimate: AWS") || says(e, "NAT gateway") {
		t.Errorf("%q", e.Notes)
	}
	s.Resources = append(s.Resources, account.Resource{ID: "Host", Type: "AWS::EC2::Instance"})
	if e := Of(s, Options{}); !says(e, "not in this estimate: AWS::EC2::Instance") {
		t.Errorf("%q", e.Notes)
	}
	if e := Of(newStack(t, account.Inputs{Region: "us-east-1"}), Options{}); !says(e, "NAT gateway") || says(e, "S3") {
		t.Errorf("%q", e.Notes)
	}
	if e := Of(newStack(t, account.Inputs{Region: "us-east-1", PublicAddress: true}), Options{}); says(e, "NAT gateway") {
		t.Errorf("with public addresses: %q", e.Notes)
	}
}

// A shared class costs by its tasks, all the time, and nothing an hour.
func TestSharedClass(t *testing.T) {
	e := Of(newStack(t, account.Inputs{Region: "us-east-1", CPU: 256, Classes: []account.Class{{Shared: 3}}}), Options{})
	const want = "Fargate vCPU, x86, of 3 tasks that always run: 547.5 vCPU-hour * 0.04048 = 22.1628"
	if got := lines(e.Month); got[0] != want || len(e.Hour) > 0 || !says(e, "whether somebody uses them or not") {
		t.Errorf("%q, want %q; %+v", got, want, e)
	}
}

// Tasks of a service cost something all the time. Instances, and tasks on Spot, are notes.
func TestVariants(t *testing.T) {
	s := newStack(t, account.Inputs{Region: "us-east-1", CPU: 256})
	s.Resources = append(s.Resources,
		account.Resource{ID: "Service", Type: "AWS::ECS::Service", Properties: account.Object{{Name: "DesiredCount", Value: 2}}},
		account.Resource{ID: "Spot", Type: "AWS::ECS::Cluster", Properties: account.Object{{Name: "CapacityProviders", Value: account.List{}}}})
	e := Of(s, Options{})
	want := []string{
		"Fargate vCPU, x86, of 2 tasks that always run: 365 vCPU-hour * 0.04048 = 14.7752",
		"Fargate memory, x86, of 2 tasks that always run: 730 GB-hour * 0.004445 = 3.24485",
	}
	if got := lines(e.Month)[:2]; !slices.Equal(got, want) || !says(e, "up to 70 % less") || says(e, "not in this estimate") {
		t.Errorf("%q, want %q; %q", got, want, e.Notes)
	}
	if e := Of(newStack(t, account.Inputs{Region: "us-east-1"}), Options{}); says(e, "Spot") {
		t.Errorf("%q", e.Notes)
	}
	classic, err := account.NewClassic(account.ClassicInputs{})
	if err != nil {
		t.Fatal(err)
	}
	if e := Of(classic, Options{}); e.Hour == nil || len(e.Hour) > 0 || !says(e, "the EC2 instances") || says(e, "AWS::") {
		t.Errorf("%+v", e)
	}
}

// An operator's table comes before the program's, for its regions.
func TestOwnTable(t *testing.T) {
	text := strings.ReplaceAll(string(published), `"0.04048"`, `"9"`)
	text = strings.ReplaceAll(text, `"us-west-2"`, `"mars-1"`)
	own, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for region, want := range map[string]string{"mars-1": "9 mars-1", "us-west-2": "0.04048 us-west-2", "venus-1": "9 us-east-1"} {
		e := Of(newStack(t, account.Inputs{Region: region}), Options{Prices: &own})
		if got := e.Hour[0].Price.String() + " " + e.PricesOf; got != want {
			t.Errorf("%s: %s, want %s", region, got, want)
		}
	}
}

// A table that lacks something says what.
func TestParseFails(t *testing.T) {
	for text, want := range map[string]string{
		`{`:  "unexpected EOF",
		`{}`: "missing are source, regions",
		`{"source":"s","regions":{"a-1":{"date":"2026"}}}`:                   "a-1.x86_vcpu_hour, a-1.x86_gb_hour",
		`{"source":"s","regions":{"a-1":{"date":"2026","key_month":"-1"}}}`:  `"-1" is not a price`,
		`{"source":"s","regions":{"a-1":{"date":"2026","key_month":"1/3"}}}`: `"1/3" is not a price`,
		`{"source":"s","regions":{"a-1":{"date":"2026","key_month":"1e9"}}}`: `"1e9" is not a price`,
		`{"source":"s","regions":{"a-1":{"date":"2026","colour":"1"}}}`:      "colour",
		string(published) + "{}": "more follows",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

// The program's own table has what it must, with a date, and ARM is the cheaper one.
func TestPublished(t *testing.T) {
	table := Published()
	for region, p := range table.Regions {
		if len(p.Date) != len("2026-03") || p.ARMVCPUHour.Cmp(*p.X86VCPUHour) >= 0 || p.ARMGBHour.Cmp(*p.X86GBHour) >= 0 {
			t.Errorf("%s: %+v", region, p)
		}
	}
	if p := table.Regions[usual]; len(table.Regions) < 5 || p.X86VCPUHour.String() != "0.04048" || p.X86GBHour.String() != "0.004445" {
		t.Errorf("%d regions, %s: the default of the settings is another", len(table.Regions), p.X86VCPUHour)
	}
}

// Settings count if somebody has set one of them: their defaults are the published prices of us-east-1.
func TestBySettings(t *testing.T) {
	usual := func(key string) float64 {
		price, err := strconv.ParseFloat(config.Lookup(key).Default, 64)
		if err != nil {
			t.Fatal(err)
		}
		return price
	}
	vcpu, gb := usual("price_vcpu_hour"), usual("price_gb_hour")
	if got := BySettings(vcpu, gb); got != nil {
		t.Errorf("%+v by the defaults", got)
	}
	for _, set := range []fargate.Price{{VCPUHour: 0.05, GBHour: gb}, {VCPUHour: vcpu, GBHour: 0.005}} {
		if got := BySettings(set.VCPUHour, set.GBHour); got == nil || *got != set {
			t.Errorf("%+v, want %+v", got, set)
		}
	}
}

// JSON has amounts as exact decimal texts.
func TestJSON(t *testing.T) {
	text, err := json.Marshal(Of(newStack(t, account.Inputs{Region: "us-east-1"}), Options{}))
	if err != nil || !strings.Contains(string(text), `"quantity":"1","unit":"vCPU-hour","price":"0.04048"`) {
		t.Errorf("%s, %v", text, err)
	}
}
