package survey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// Look finds what stands in the clients' region. groups are security groups to look at besides those of what it finds. The error is for a survey that cannot begin or go on: no credentials, or an end of ctx.
// Whatever else AWS does not show is a finding.
func Look(ctx context.Context, clients Clients, groups ...string) (Landscape, error) {
	identity, err := clients.Identity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return Landscape{}, fail.AWS(fail.Other, "ask AWS whose account it is", "sts:GetCallerIdentity", err)
	}
	l := Landscape{
		Region: clients.Region, Account: aws.ToString(identity.Account), Caller: printable.Line(aws.ToString(identity.Arn)),
		Partition: partition.Of(clients.Region).ID,
	}
	if caller, err := arn.Parse(aws.ToString(identity.Arn)); err == nil {
		l.Partition = caller.Partition
	}
	s := &surveyor{clients: clients, landscape: l, given: groups}
	return s.look(ctx)
}

// surveyor collects what the calls find.
type surveyor struct {
	clients   Clients
	landscape Landscape
	found     found
	given     []string // security groups that the caller names

	mu       sync.Mutex
	findings []Finding
	fatal    error
}

func (s *surveyor) look(ctx context.Context) (Landscape, error) {
	var calls sync.WaitGroup
	for _, find := range []func(context.Context){
		s.vpcs, s.subnets, s.routes, s.gateways, s.endpoints, s.services, s.prefixList, s.instances,
		s.clusters, s.proxies, s.caches,
	} {
		calls.Go(func() { find(ctx) })
	}
	calls.Wait()
	s.groups(ctx)
	if err := cmp.Or(s.fatal, ctx.Err()); err != nil {
		return Landscape{}, err
	}
	slices.SortFunc(s.findings, func(a, b Finding) int { return strings.Compare(a.Action, b.Action) })
	s.landscape.Findings = s.findings
	s.assemble()
	return s.landscape, nil
}

// note records that AWS did not show something, and reports whether it did.
func (s *surveyor) note(what, action string, err error) (seen bool) {
	if err == nil {
		return true
	}
	err = fail.AdminAWS(fail.Other, "look for "+what+" in "+s.clients.Region, action, "", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if fail.KindOf(err) == fail.Credentials || errors.Is(err, context.Canceled) {
		s.fatal = cmp.Or(s.fatal, err)
		return false
	}
	s.findings = append(s.findings, Finding{What: what, Action: action, Err: err})
	return false
}

// pages returns the elements of all pages. next asks for the page that a token leads to, nil for the first, and returns its elements and
// the token of the page after it.
func pages[T any](next func(token *string) ([]T, *string, error)) ([]T, error) {
	var all []T
	var token *string
	for {
		page, following, err := next(token)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if aws.ToString(following) == "" {
			return all, nil
		}
		if token != nil && *token == *following {
			return nil, fmt.Errorf("AWS leads from a page to itself (%.40q)", *token)
		}
		token = following
	}
}
