package access

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/targets"
)

// placesLimit bounds the look-up of places, which explains a failure and must not delay it for long.
const placesLimit = 5 * time.Second

// errUnknownVPC is for a bastion that is neither a task nor an EC2 instance.
var errUnknownVPC = errors.New("the setting target names no EC2 instance by its id")

// Place returns where the settings' bastion is, whether one runs or not. Its VPC is that of the subnets or the instance.
func (a *Access) Place(ctx context.Context) report.Place {
	ctx, cancel := context.WithTimeout(ctx, placesLimit)
	defer cancel()
	vpc, err := a.vpc(ctx)
	return placeOf(vpc, a.region, err)
}

// bastionVPC returns the id of the VPC of the settings' bastion.
func (a *Access) bastionVPC(ctx context.Context) (string, error) {
	s := a.settings
	switch {
	case s.SSHD.Target == "":
		return a.manager.VPC(ctx, s.Bastion.Subnets, s.Bastion.SubnetTags)
	case !IsInstance(s.SSHD.Target):
		return "", errUnknownVPC
	}
	e, err := a.resolver.Resolve(ctx, targets.Spec{Kind: targets.EC2, ID: s.SSHD.Target, Port: s.SSHD.Port})
	if err != nil {
		return "", err
	}
	return a.resolver.VPC(ctx, e)
}

// Places returns where a target and the bastion are, as far as AWS tells within a few seconds. It calls only for what is not known yet.
func (a *Access) Places(ctx context.Context, e targets.Endpoint) report.Places {
	ctx, cancel := context.WithTimeout(ctx, placesLimit)
	defer cancel()
	vpc, err := a.resolver.VPC(ctx, e)
	p := report.Places{Target: placeOf(vpc, cmp.Or(targets.RegionOf(e.Host), a.region), err), Bastion: a.Place(ctx)}
	if p.Differ() {
		names := a.resolver.VPCNames(ctx, filled(p.Target.VPC, p.Bastion.VPC)...)
		p.Target.Name, p.Bastion.Name = names[p.Target.VPC], names[p.Bastion.VPC]
	}
	return p
}

func placeOf(vpc, region string, err error) report.Place {
	p := report.Place{VPC: vpc, Region: region}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		p.Unknown = "AWS did not answer in time"
	case err != nil:
		p.Unknown = err.Error()
	}
	return p
}

// filled returns the texts that are not empty.
func filled(texts ...string) (out []string) {
	for _, text := range texts {
		if text != "" {
			out = append(out, text)
		}
	}
	return out
}
