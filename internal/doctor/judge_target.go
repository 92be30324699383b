package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// thing names the target as AWS knows it: "RDS instance orders".
func (w *Where) thing() string { return w.Thing.What + " " + w.Thing.ID }

func judgeExists(f *Facts) Finding {
	w := &f.Where
	switch {
	case w.Err == nil && f.Spec.Kind != targets.Host && w.Endpoint.Host != "" && w.Thing.What == "":
		return fine("%s is at %s", f.Target, access.Destination(w.Endpoint.Host, w.Endpoint.Port))
	case w.Err == nil && w.Thing.What == "":
		return fine("%s is a host and port", f.Target)
	case w.Err == nil, w.Thing.Down: // the next check judges that
		return fine("%s is the %s", f.Target, w.thing())
	case fail.KindOf(w.Err) == fail.Denied:
		return failed("denied", "AWS does not let you look the target up", w.Err)
	case w.Thing.What != "":
		return failed("unusable", fmt.Sprintf("%s means the %s, but not a connection to it", f.Target, w.thing()), w.Err)
	}
	return failed("missing", "the target cannot be found", w.Err)
}

func judgeStatus(f *Facts) Finding {
	w := &f.Where
	switch {
	case w.Err != nil:
		return failed("down", fmt.Sprintf("the %s takes no connections", w.thing()), w.Err)
	case w.Endpoint.StatusNote != "":
		return warn("passing", w.Endpoint.StatusNote, "wait until it is available: bastion ls targets")
	case w.Thing.Status == "":
		return fine("AWS has no status of it")
	}
	return fine("its status is %s", w.Thing.Status)
}

func judgeIAM(f *Facts) Finding {
	switch in := f.Where.Thing.SignIn; {
	case in.Enable != "":
		return warn("off", in.Means, in.Enable)
	case in.Means != "":
		return fine("%s", in.Means)
	}
	return fine("IAM authentication is not for hosts")
}

func judgeAdmits(f *Facts) Finding {
	w := &f.Where
	t := w.Thing
	switch {
	case t.What == "":
		return Finding{Level: Skipped, Case: caseNone, Means: "AWS does not say which security groups a host has"}
	case w.Places.Differ() && w.Dialed && w.DialErr == nil:
		return fine("the bastion connects to it from another VPC")
	case w.Places.Differ(): // rules may name addresses, or the groups of a peer
		return because(idVPC)
	case t.Unguarded != "":
		return Finding{Level: Skipped, Case: caseNone, Means: "there are no security groups of the target to examine: " + t.Unguarded}
	case t.GroupsErr != nil:
		return unseen("which security groups the target has", t.GroupsErr)
	case len(t.Groups) == 0:
		return hidden("unasked", "the security groups of the target", "")
	case w.RulesErr != nil:
		return unseen("the security groups of the target", w.RulesErr)
	case len(w.Rules) == 0:
		return hidden("unasked", "the security groups of the target: "+strings.Join(t.Groups, ", ")+" are of another account, or gone", "")
	case f.Account.Subnets == nil || f.Account.Groups == nil:
		return because(idGroups)
	}
	port, mine, vpc := w.Endpoint.Port, f.groupIDs(), aws.ToString(f.Account.Subnets[0].VpcId)
	here := slices.DeleteFunc(slices.Clone(w.Rules), func(g ec2types.SecurityGroup) bool {
		return vpc != "" && aws.ToString(g.VpcId) != vpc
	})
	if len(here) == 0 {
		return warn("other_vpc", fmt.Sprintf("the target is in %s, and the bastion in %s: whether the two are connected cannot be seen from "+
			"here", aws.ToString(w.Rules[0].VpcId), vpc),
			"choose the cluster and subnets of that VPC (--subnets), or connect the VPCs")
	}
	admits := func(g ec2types.SecurityGroup) bool { return opens(g.IpPermissions, port, mine, f.ranges()) }
	if !slices.ContainsFunc(here, admits) {
		return wrong(fail.Other, "closed", fmt.Sprintf("the security groups of the %s do not admit the bastion at port %d", w.thing(), port),
			fmt.Sprintf("aws ec2 authorize-security-group-ingress --group-id %s --protocol tcp --port %d --source-group %s",
				aws.ToString(here[0].GroupId), port, cmp.Or(first(mine), "THE-TASKS-GROUP")))
	}
	for _, g := range f.Account.Groups {
		if opens(g.IpPermissionsEgress, port, t.Groups, f.ranges()) {
			return fine("the security groups let the bastion reach it")
		}
	}
	return wrong(fail.Other, "egress", fmt.Sprintf("the security group of the bastion's task does not let it out to port %d of the %s", port,
		w.thing()),
		fmt.Sprintf("aws ec2 authorize-security-group-egress --group-id %s --ip-permissions "+
			"IpProtocol=tcp,FromPort=%d,ToPort=%d,UserIdGroupPairs=[{GroupId=%s}]",
			first(mine), port, port, t.Groups[0]))
}

// judgeVPC judges where the target and the bastion are. Two VPCs may be connected, which only a connection shows.
func judgeVPC(f *Facts) Finding {
	w := f.Where
	word := "other_vpc"
	if w.Places.Regions() {
		word = "other_region"
	}
	fix := w.Places.Next()
	if w.Serving != "" {
		fix = fmt.Sprintf("name the target as %s/TARGET: the bastion of that environment is in %s", w.Serving, w.Places.Target)
	}
	refused, ok := errors.AsType[*tunnel.RefusedError](w.DialErr)
	ok = ok && refused.Reason == ssh.ConnectionFailed
	answered := ok && strings.Contains(refused.Message, "connection refused") // by the target's machine
	switch {
	case w.Places == report.Places{}:
		return fine("AWS tells the VPC of no host")
	case w.Places.Same():
		return fine("the bastion is in the target's VPC")
	case !w.Places.Differ():
		return hidden("unknown", "whether the bastion is in the target's VPC: "+w.Places.String(), "")
	case w.Dialed && w.DialErr == nil || answered:
		return fine("%s, and the two are connected", w.Places)
	case ok:
		return wrong(fail.Other, word, fmt.Sprintf("%s, and the bastion finds no way: %s", w.Places, printable.Line(refused.Message)), fix)
	}
	return warn(word, fmt.Sprintf("%s: whether the two are connected is not known before the bastion connects", w.Places), fix)
}

func judgeReach(f *Facts) Finding {
	w := f.Where
	if !w.Dialed {
		return hidden("unasked", "what the bastion reaches", "")
	}
	if w.DialErr == nil {
		return fine("the bastion connects to it")
	}
	refused, ok := errors.AsType[*tunnel.RefusedError](w.DialErr)
	if !ok {
		return failed("failed", "no connection to the target", w.DialErr)
	}
	switch {
	case refused.Reason == ssh.Prohibited:
		return f.unlisted(refused.Message)
	case strings.Contains(refused.Message, "cannot resolve the name"):
		out := failed("name", "the bastion cannot resolve the target's name", w.DialErr)
		out.Fix = "associate the name's private hosted zone with the bastion's VPC (aws route53 associate-vpc-with-hosted-zone), or correct " +
			"the name"
		return out
	}
	return failed("closed", "the bastion cannot connect to the target", w.DialErr)
}

// unlisted is the finding for a destination that a list refuses, by bastiond's words: the grant's list, the image's, or the task's.
func (f *Facts) unlisted(message string) Finding {
	to := cmp.Or(access.Destination(f.Where.Endpoint.Host, f.Where.Endpoint.Port), f.Target)
	text := "the bastion refuses the target: " + printable.Line(message)
	switch {
	case strings.Contains(message, "is never permitted"):
		return wrong(fail.Denied, "never", text, "name another destination: no list can permit this one")
	case strings.Contains(message, "the grant"):
		return wrong(fail.Denied, "grant", text, "have the grant's issuer (grant_command) permit "+to)
	case strings.Contains(message, "the image's own list"):
		return wrong(fail.Denied, "image", text,
			"build the image with "+to+" in ALLOW and push it (docs/by-hand.md, 2); then bastion down, bastion up")
	}
	return wrong(fail.Denied, "task", text, "have the bastion's operator allow it: bastion init --allow "+
		quoted(cmp.Or(f.allowed(), "DESTINATIONS-SO-FAR")+","+to)+"; then bastion down, bastion up")
}

// allowed is BASTIOND_ALLOW of the task definition.
func (f *Facts) allowed() string {
	c := f.container()
	if c == nil {
		return ""
	}
	for _, v := range c.Environment {
		if aws.ToString(v.Name) == "BASTIOND_ALLOW" {
			return aws.ToString(v.Value)
		}
	}
	return ""
}
