package billing

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/costexplorer"
	"github.com/aws/aws-sdk-go-v2/service/costexplorer/types"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
)

const (
	// Tag is the tag of everything that a stack makes, and of the tasks of its task definitions. Its value is "true".
	Tag = "bastion"
	// maxRequests bounds the pages, of which each is a request for $0.01. A page has thousands of groups.
	// Source: https://aws.amazon.com/aws-cost-management/aws-cost-explorer/pricing/
	maxRequests = 5

	metric = "UnblendedCost"
	action = "ce:GetCostAndUsage"
)

// Part is what AWS has billed of a group.
type Part struct {
	Name   string  `json:"name"` // an AWS service, or a tag's value; empty: without the tag
	Amount float64 `json:"amount"`
}

// Bill is what AWS has billed in a time.
type Bill struct {
	By        string  `json:"by"` // what the parts are of: "service", or "tag:KEY"
	Parts     []Part  `json:"parts"`
	Total     float64 `json:"total"`
	Currency  string  `json:"currency"`
	Estimated bool    `json:"estimated"` // AWS may still change it
	Requests  int     `json:"requests"`  // that AWS charges
}

// Explorer is the one call of Cost Explorer. A single method, and not a client: see access/calls.go.
type Explorer struct {
	ask func(context.Context, *costexplorer.GetCostAndUsageInput, ...func(*costexplorer.Options)) (*costexplorer.GetCostAndUsageOutput, error)
}

// New returns the call as cfg makes it. Cost Explorer has one endpoint for all regions of a partition, which the SDK knows.
func New(cfg aws.Config) *Explorer {
	return &Explorer{costexplorer.NewFromConfig(cfg).GetCostAndUsage}
}

// Ask returns what AWS has billed from one time until another, by days in UTC, for what has the tag Tag: by AWS's services, or by the
// values of a tag.
func (e *Explorer) Ask(ctx context.Context, from, to time.Time, tag string) (Bill, error) {
	op := "ask Cost Explorer what was billed"
	bill := Bill{By: "service", Parts: []Part{}, Currency: dollars}
	group := types.GroupDefinition{Type: types.GroupDefinitionTypeDimension, Key: aws.String("SERVICE")}
	if tag != "" {
		bill.By, group = "tag:"+tag, types.GroupDefinition{Type: types.GroupDefinitionTypeTag, Key: &tag}
	}
	in := &costexplorer.GetCostAndUsageInput{
		Granularity: types.GranularityMonthly, Metrics: []string{metric}, GroupBy: []types.GroupDefinition{group},
		TimePeriod: &types.DateInterval{Start: aws.String(from.UTC().Format(time.DateOnly)), End: aws.String(lastDay(from, to))},
		Filter:     &types.Expression{Tags: &types.TagValues{Key: aws.String(Tag), Values: []string{"true"}}},
	}
	sums := make(map[string]float64)
	for {
		bill.Requests++
		out, err := e.ask(ctx, in)
		if err != nil {
			return bill, fail.AdminAWS(fail.Other, op, action, "", err)
		}
		for _, month := range out.ResultsByTime {
			bill.Estimated = bill.Estimated || month.Estimated
			for _, g := range month.Groups {
				amount, currency, err := amountOf(g)
				if err != nil {
					return bill, fail.New(fail.Other, op, err, "")
				}
				bill.Currency = currency
				sums[nameOf(g, tag)] += amount
			}
		}
		if in.NextPageToken = out.NextPageToken; aws.ToString(in.NextPageToken) == "" {
			break
		}
		if bill.Requests == maxRequests {
			return bill, fail.New(fail.Other, op, fmt.Errorf("the answer has more than %d pages, each of which AWS charges", maxRequests),
				"group by a tag with fewer values")
		}
	}
	for name, amount := range sums {
		bill.Parts = append(bill.Parts, Part{name, amount})
		bill.Total += amount
	}
	slices.SortFunc(bill.Parts, func(a, b Part) int { return cmp.Or(cmp.Compare(b.Amount, a.Amount), strings.Compare(a.Name, b.Name)) })
	return bill, nil
}

// lastDay is the day before which a time ends. Cost Explorer has whole days, and takes none that is empty.
func lastDay(from, to time.Time) string {
	day := to.UTC().Truncate(24 * time.Hour)
	if day.Before(to) {
		day = day.AddDate(0, 0, 1)
	}
	if !day.After(from) {
		day = from.UTC().AddDate(0, 0, 1)
	}
	return day.Format(time.DateOnly)
}

// nameOf is a group's name. That of a tag's value is "KEY$VALUE".
func nameOf(g types.Group, tag string) string {
	if len(g.Keys) == 0 {
		return ""
	}
	if tag != "" {
		return printable.Line(strings.TrimPrefix(g.Keys[0], tag+"$"))
	}
	return printable.Line(g.Keys[0])
}

// dollars are what AWS bills in, but in China.
const dollars = "USD"

func amountOf(g types.Group) (amount float64, currency string, _ error) {
	m := g.Metrics[metric]
	amount, err := strconv.ParseFloat(aws.ToString(m.Amount), 64)
	if err != nil {
		return 0, "", fmt.Errorf("the amount %q is not a number", aws.ToString(m.Amount))
	}
	return amount, cmp.Or(printable.Line(aws.ToString(m.Unit)), dollars), nil
}
