package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

func judgeRunning(f *Facts) Finding {
	if skip, ok := f.server(); ok {
		return skip
	}
	r := f.Running
	switch {
	case fail.KindOf(r.Err) == fail.Denied:
		return failed("denied", "AWS does not show your tasks", r.Err)
	case r.Err != nil:
		return failed("unanswered", "your tasks cannot be listed", r.Err)
	case !r.Asked:
		return hidden(caseNone, "your tasks", "")
	case f.bastion() == nil:
		return Finding{Level: Skipped, Case: caseNone, Means: "no bastion of yours is running; bastion up starts one, and doctor then " +
			"examines it too"}
	}
	return fine("bastion %s is %s", f.bastion().TaskID, f.bastion().LastStatus)
}

// bastion is the owner's newest task that is not about to end.
func (f *Facts) bastion() *bastions.Bastion {
	for i := range f.Running.All {
		if !f.Running.All[i].Stopping() {
			return &f.Running.All[i]
		}
	}
	return nil
}

func judgeTask(f *Facts) Finding {
	b := f.bastion()
	const again = "bastion down, then bastion up"
	switch {
	case b.Refused != "" && judgeSubnets(f).Level == Error: // it is compared with them
		return because(idSubnets)
	case b.Refused != "" && judgeGroups(f).Level == Error:
		return because(idGroups)
	case b.Refused != "":
		return wrong(fail.Start, "refused", fmt.Sprintf("task %s is marked as yours, but bastion would not have started it: it %s", b.TaskID,
			b.Refused),
			"bastion down --refused stops it, if nobody else works with it")
	case !b.ExecEnabled:
		return wrong(fail.Start, "exec_disabled", "the task "+b.TaskID+" was started without ECS Exec (enableExecuteCommand)", again)
	case b.OldPlatform():
		return wrong(fail.Start, "platform", fmt.Sprintf("the task %s runs on Fargate's platform version %s, which has no ECS Exec",
			b.TaskID, b.Platform), again+"; it starts on LATEST")
	case b.Outdated != "":
		return warn("outdated", fmt.Sprintf("the next command does not use the task %s, which costs money until it ends: it %s", b.TaskID,
			b.Outdated), again)
	case b.Unchecked != "":
		return hidden("unchecked", "whether the task is the one that you would start: "+b.Unchecked, "")
	}
	return fine("the task is the one that you would start")
}

func judgeExecAgent(f *Facts) Finding {
	b := f.bastion()
	switch {
	case b.ExecStatus == "STOPPED":
		return wrong(fail.Start, "stopped", "ECS Exec's agent in the task has stopped, and only a new task has another: "+
			cmp.Or(b.ExecReason, "ECS gives no reason"),
			"bastion down, then bastion up")
	case b.ExecRunning:
		return fine("ECS Exec's agent runs")
	case b.LastStatus != "RUNNING":
		return Finding{Level: Skipped, Case: caseNone, Means: "the task is still starting: " + b.LastStatus}
	case len(f.Running.Found) > 0:
		return wrong(fail.Start, "pending", "ECS Exec's agent has not connected: "+f.Running.Found[0].Problem, f.Running.Found[0].Fix)
	}
	return wrong(fail.Start, "pending", "ECS Exec's agent has not connected",
		"bastion down, then bastion up; see aws.task_role and aws.routes")
}

func judgeConnect(f *Facts) Finding {
	err := f.Running.ConnectErr
	if err == nil && f.Running.Measured == nil {
		return hidden(caseNone, "the bastion was not asked", "")
	}
	if err == nil {
		return fine("bastiond answers (version %s)", f.Running.Measured.Version)
	}
	answer := awsanswer.Of(err)
	call := map[string]string{"ExecuteCommand": "execute_command", "StartSession": "start_session", "GenerateDataKey": "kms"}[answer.Operation]
	switch answer.Class {
	case awsanswer.Denied:
		out := failed(cmp.Or(call, "call")+"_denied", "AWS denies "+cmp.Or(answer.Action, answer.Operation)+deniedBy(answer), err)
		out.kind = fail.Denied
		return out
	case awsanswer.LimitReached:
		return failed("limit", "AWS starts no further session in the task", err)
	case awsanswer.NotConnected:
		return failed("not_connected", "ECS Exec's agent in the task is not connected to Session Manager", err)
	}
	return failed("failed", "no connection to bastiond", err)
}

// judgeLastTry judges what the agent says of a link without a bastion. A start that AWS refuses leaves no task behind that would tell.
func judgeLastTry(f *Facts) Finding {
	if f.bastion() != nil {
		return fine("a bastion of yours runs")
	}
	for _, l := range f.Machine.State.Links {
		isThis := l.Environment == f.Settings.Environment && l.Region == f.Credentials.Region && l.Cluster == f.Settings.Bastion.Cluster
		if !isThis || l.Error == "" || l.State != api.LinkFailed && l.State != api.LinkWaiting {
			continue
		}
		if judgeLastStart(f).Level == Warning {
			return because(idLastStart)
		}
		return warn("failed", "the agent could not get a bastion the last time: "+printable.Line(l.Error),
			cmp.Or(l.Next, "try again: bastion up"))
	}
	return fine("the agent knows of no failed start of a bastion")
}

func judgeSessions(f *Facts) Finding {
	m := f.Running.Measured
	switch {
	case m == nil || m.MaxSessions == 0:
		return hidden("unasked", "how many sessions the task has room for", "")
	case m.Sessions >= m.MaxSessions:
		return warn("full", fmt.Sprintf("the task has %d sessions, and room for %d", m.Sessions, m.MaxSessions),
			"end sessions that are not needed (bastion stop), or start a larger task: bastion down, then bastion up --task-size large")
	}
	return fine("the task has %d of %d sessions", m.Sessions, m.MaxSessions)
}

// Shares of the task's memory and CPU from which on it is about to be the limit.
const fullShare = 0.9

func judgeHeadroom(f *Facts) Finding {
	m := f.Running.Measured
	const larger = "a larger task: bastion down, then bastion up --task-size large"
	switch {
	case m == nil || m.MemoryLimit == 0:
		return hidden("unasked", "the task's load", "")
	case float64(m.MemoryUsed) >= fullShare*float64(m.MemoryLimit):
		return warn("memory", fmt.Sprintf("the task uses %d of %d MiB: ECS ends it at the limit", m.MemoryUsed>>20, m.MemoryLimit>>20), larger)
	case m.Throttled >= fullShare/2:
		return warn("cpu", fmt.Sprintf("the task has waited for its CPU in %.0f %% of the time so far", 100*m.Throttled), larger)
	}
	return fine("the task uses %d of %d MiB", m.MemoryUsed>>20, m.MemoryLimit>>20)
}

// Kinds of targets that AWS describes.
const (
	whatInstance = "DB instance"
	whatCluster  = "DB cluster"
	whatCache    = "cache"
)

func judgeExists(f *Facts) Finding {
	w := f.Where
	switch {
	case w.What != "":
		return fine("%s is the %s %s", f.Target, w.What, w.Name)
	case fail.KindOf(w.Err) == fail.Denied:
		return failed("denied", "AWS does not let you look the target up", w.Err)
	case w.Err != nil:
		return failed("missing", "the target cannot be found", w.Err)
	}
	if f.Spec.Kind == targets.Host || w.Endpoint.Host == "" {
		return fine("%s is a host and port", f.Target)
	}
	return fine("%s is at %s", f.Target, access.Destination(w.Endpoint.Host, w.Endpoint.Port))
}

func judgeStatus(f *Facts) Finding {
	w := f.Where
	switch {
	case w.Err != nil:
		return failed("down", fmt.Sprintf("the %s %s takes no connections", w.What, w.Name), w.Err)
	case w.Endpoint.StatusNote != "":
		return warn("passing", w.Endpoint.StatusNote, "wait until it is available: bastion ls targets")
	}
	if w.Status == "" {
		return fine("AWS has no status of it")
	}
	return fine("its status is %s", w.Status)
}

func judgeIAM(f *Facts) Finding {
	w := f.Where
	switch {
	case w.What != whatInstance && w.What != whatCluster:
		return fine("IAM authentication is not for this kind of target")
	case !w.IAM:
		kind := map[string]string{whatInstance: "instance", whatCluster: "cluster"}[w.What]
		return warn("off", "IAM authentication is off: bastion token does not work there, passwords do",
			fmt.Sprintf("aws rds modify-db-%s --db-%s-identifier %s --enable-iam-database-authentication --apply-immediately", kind, kind, w.Name))
	}
	return fine("IAM authentication is on")
}

func judgeAdmits(f *Facts) Finding {
	w := f.Where
	switch {
	case w.What == "":
		return Finding{Level: Skipped, Case: caseNone, Means: "the security groups are examined for databases and caches alone"}
	case len(w.Groups) == 0:
		return hidden("unasked", "the security groups of the target", "")
	case w.RulesErr != nil:
		return unseen("the security groups of the target", w.RulesErr)
	case f.Account.Subnets == nil || f.Account.Groups == nil:
		return because(idGroups)
	}
	port, mine := w.Endpoint.Port, f.groupIDs()
	if vpc := f.Account.Subnets[0].VpcId; w.VPC != "" && vpc != nil && *vpc != w.VPC {
		return warn("other_vpc", fmt.Sprintf("the target is in %s, and the bastion in %s: whether the two are connected cannot be seen from "+
			"here", w.VPC, *vpc),
			"choose the cluster and subnets of that VPC (--subnets), or connect the VPCs")
	}
	admitted := false
	for _, g := range w.Rules {
		admitted = admitted || opens(g.IpPermissions, port, mine, f.ranges())
	}
	if !admitted {
		return wrong(fail.Other, "closed", fmt.Sprintf("the security groups of %s %s do not admit the bastion at port %d", w.What, w.Name, port),
			fmt.Sprintf("aws ec2 authorize-security-group-ingress --group-id %s --protocol tcp --port %d --source-group %s", w.Groups[0], port,
				cmp.Or(first(mine), "THE-TASKS-GROUP")))
	}
	for _, g := range f.Account.Groups {
		if opens(g.IpPermissionsEgress, port, w.Groups, f.ranges()) {
			return fine("the security groups let the bastion reach it")
		}
	}
	return wrong(fail.Other, "egress", fmt.Sprintf("the security group of the bastion's task does not let it out to port %d of %s", port,
		w.Name),
		fmt.Sprintf("aws ec2 authorize-security-group-egress --group-id %s --ip-permissions "+
			"IpProtocol=tcp,FromPort=%d,ToPort=%d,UserIdGroupPairs=[{GroupId=%s}]",
			first(mine), port, port, w.Groups[0]))
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
