package price

import (
	"bytes"
	_ "embed" // the prices
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Prices are those of a region, in US dollars.
type Prices struct {
	Date string `json:"date"` // when they were published

	X86VCPUHour  *Amount `json:"x86_vcpu_hour"` // Fargate, Linux
	X86GBHour    *Amount `json:"x86_gb_hour"`
	ARMVCPUHour  *Amount `json:"arm_vcpu_hour"`
	ARMGBHour    *Amount `json:"arm_gb_hour"`
	EndpointHour *Amount `json:"endpoint_hour"`  // an interface endpoint in a zone
	KeyMonth     *Amount `json:"key_month"`      // a KMS key
	AlarmMonth   *Amount `json:"alarm_month"`    // an alarm
	MetricMonth  *Amount `json:"metric_month"`   // a metric of one's own, by the hours in which it has values
	LogGB        *Amount `json:"log_gb"`         // written to CloudWatch Logs
	LogGBMonth   *Amount `json:"log_gb_month"`   // kept there
	ImageGBMonth *Amount `json:"image_gb_month"` // in ECR
	AddressHour  *Amount `json:"address_hour"`   // a public IPv4 address
}

// Table has the prices of regions.
type Table struct {
	Source  string            `json:"source"`
	Regions map[string]Prices `json:"regions"`
}

// usual is the region whose prices stand in for those of unknown ones.
const usual = "us-east-1"

//go:embed prices.json
var published []byte

// Published returns the table that the program has.
func Published() Table {
	t, err := Parse(published)
	if err != nil {
		panic(err) // a test reads it
	}
	return t
}

// Parse reads a table: {"source": "...", "regions": {"eu-west-1": {...}}}, each region with every price of [Prices]. Prices are decimal
// numbers in quotes. The error has all that is missing.
func Parse(text []byte) (Table, error) {
	var t Table
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return Table{}, fmt.Errorf("table of prices: %w", err)
	}
	if d.More() {
		return Table{}, fmt.Errorf("table of prices: more follows its end")
	}
	var faults []string
	if t.Source == "" {
		faults = append(faults, "source")
	}
	if len(t.Regions) == 0 {
		faults = append(faults, "regions")
	}
	for _, region := range slices.Sorted(maps.Keys(t.Regions)) {
		p := reflect.ValueOf(t.Regions[region])
		for i := range p.NumField() {
			if p.Field(i).IsZero() {
				faults = append(faults, region+"."+p.Type().Field(i).Tag.Get("json"))
			}
		}
	}
	if len(faults) > 0 {
		return Table{}, fmt.Errorf("table of prices: missing are %s", strings.Join(faults, ", "))
	}
	return t, nil
}

// find returns the prices of a region, the region that they are of, and where they are from. An operator's table comes before the
// published one.
func find(region string, own *Table) (p Prices, of, source string) {
	tables := []Table{Published()}
	if own != nil {
		tables = []Table{*own, tables[0]}
	}
	for _, of := range []string{region, usual} {
		for _, t := range tables {
			if p, ok := t.Regions[of]; ok {
				return p, of, t.Source
			}
		}
	}
	panic("price: the published table has not " + usual) // a test reads it
}
