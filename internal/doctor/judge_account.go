package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/fargate"
)

// server is the finding of the checks of a task where the settings name a server in its place.
func (f *Facts) server() (Finding, bool) {
	if f.Settings.SSHD.Target == "" {
		return Finding{}, false
	}
	return Finding{Level: Skipped, Case: caseNone, Means: "the setting target names a server; no task is needed"}, true
}

// others is the finding of the checks of what a new task would have, where the user starts none.
func (f *Facts) others() (Finding, bool) {
	if skip, ok := f.server(); ok {
		return skip, true
	}
	if f.Settings.Bastion.SharedService == "" {
		return Finding{}, false
	}
	return Finding{
		Level: Skipped, Case: caseNone, Means: "the bastion is shared: its operators answer for what its service's tasks have",
	}, true
}

func (f *Facts) cluster() string { return cmp.Or(f.Settings.Bastion.Cluster, "default") }

func judgeCluster(f *Facts) Finding {
	a := f.Account
	switch {
	case a.ClusterErr != nil:
		return unseen("whether the cluster "+f.cluster()+" is there and how it encrypts ECS Exec", a.ClusterErr)
	case a.Cluster == nil:
		return wrong(fail.Usage, "missing", fmt.Sprintf("account %s has no cluster %s in %s", f.Credentials.Account, f.cluster(),
			f.Credentials.Region),
			"correct --cluster, --region or --profile; or set the account up: bastion init")
	case aws.ToString(a.Cluster.Status) != "ACTIVE":
		return wrong(fail.Usage, "inactive", fmt.Sprintf("the cluster %s is %s: it has been deleted, or is about to be", f.cluster(),
			aws.ToString(a.Cluster.Status)),
			"set the account up again: bastion init; or name another cluster: --cluster")
	}
	return fine("the cluster %s is active", f.cluster())
}

func judgeDefinition(f *Facts) Finding {
	a, name := f.Account, f.Settings.Bastion.TaskDefinition
	d := a.Definition
	switch {
	case awsanswer.ClassOf(a.DefinitionErr) == awsanswer.Config, awsanswer.ClassOf(a.DefinitionErr) == awsanswer.Final:
		return wrong(fail.Usage, "missing", fmt.Sprintf("there is no task definition %s in %s", name, f.Credentials.Region),
			"register it (bastion init does that; docs/by-hand.md), or name another: --task-definition")
	case a.DefinitionErr != nil:
		return unseen("the task definition "+name, a.DefinitionErr)
	case d == nil:
		return hidden("unasked", "the task definition "+name, "")
	case d.Status != "" && d.Status != ecstypes.TaskDefinitionStatusActive:
		return wrong(fail.Usage, "inactive", fmt.Sprintf("the task definition %s is %s: no task starts from it", name, d.Status),
			"register a new revision (bastion upgrade), or name another: --task-definition")
	case d.NetworkMode != ecstypes.NetworkModeAwsvpc:
		return wrong(fail.Usage, "network_mode", fmt.Sprintf("the task definition %s has the network mode %q; Fargate takes awsvpc alone",
			name, d.NetworkMode),
			"set networkMode to awsvpc in a new revision")
	case len(d.Compatibilities) > 0 && !slices.Contains(d.Compatibilities, ecstypes.CompatibilityFargate):
		return wrong(fail.Usage, "fargate", fmt.Sprintf("the task definition %s is not made for Fargate", name),
			"register it with requiresCompatibilities FARGATE, and with cpu and memory of a Fargate size")
	}
	return fine("the task definition %s is active", name)
}

// container returns the container of bastiond, as the program itself chooses it.
func (f *Facts) container() *ecstypes.ContainerDefinition {
	d := f.Account.Definition
	if d == nil {
		return nil
	}
	want := f.Settings.Bastion.Container
	for i := range d.ContainerDefinitions {
		name := aws.ToString(d.ContainerDefinitions[i].Name)
		if name == cmp.Or(want, "bastion") || want == "" && len(d.ContainerDefinitions) == 1 {
			return &d.ContainerDefinitions[i]
		}
	}
	return nil
}

func judgeContainer(f *Facts) Finding {
	d := f.Account.Definition
	if d == nil {
		return because(idDefinition)
	}
	c := f.container()
	if c == nil {
		var names []string
		for _, c := range d.ContainerDefinitions {
			names = append(names, aws.ToString(c.Name))
		}
		return wrong(fail.Usage, "missing", fmt.Sprintf("the task definition has no container %s; it has %s",
			cmp.Or(f.Settings.Bastion.Container, "bastion"), strings.Join(names, ", ")),
			"set the container that bastiond runs in: --container")
	}
	problems := bastions.CheckContainer(c)
	switch {
	case len(problems) > 0:
		return wrong(fail.Start, problems[0].Case, problems[0].Problem, problems[0].Fix)
	case d.PidMode != "" && len(d.ContainerDefinitions) > 1:
		return warn("pid_mode", fmt.Sprintf("the containers share their processes (pidMode %s): ECS Exec then works in one of them alone, and "+
			"they see each other", d.PidMode),
			"leave pidMode out of the task definition; bastion upgrade renews that of bastion init")
	case c.LinuxParameters == nil || !aws.ToBool(c.LinuxParameters.InitProcessEnabled):
		return warn("init_process", "the container has no init process: ended commands of ECS Exec stay as zombies, until no further one can "+
			"start",
			`set "linuxParameters": {"initProcessEnabled": true} in the container definition; bastion upgrade renews that of bastion init`)
	}
	return fine("the container has what ECS Exec needs")
}

// A session's process in the task has some 10 MB of its own, beside what the agent and bastiond have (docs/performance.md).
const (
	mibPerSession = 10
	mibForTask    = 110
)

func judgeSize(f *Facts) Finding {
	d := f.Account.Definition
	size := f.Settings.TaskSize()
	if d != nil && size == (fargate.Size{}) {
		size = fargate.Size{CPU: number(d.Cpu), Memory: number(d.Memory)}
	}
	if size.Memory == 0 {
		return because(idDefinition)
	}
	if want, room := f.Settings.Link.Sessions, (size.Memory-mibForTask)/mibPerSession; want > room {
		return warn("memory", fmt.Sprintf("a task of %d MiB has room for about %d sessions, and a link may want %d", size.Memory, room, want),
			"bastion down, then a larger task: --task-size medium; or fewer sessions: --sessions")
	}
	return fine("a task has %v", size)
}

func judgeTaskRole(f *Facts) Finding {
	d := f.Account.Definition
	if d != nil && aws.ToString(d.TaskRoleArn) == "" {
		return wrong(fail.Start, "none", "the task definition has no task role, so ECS Exec's agent has no credentials",
			"set taskRoleArn to a role that ECS tasks may assume, with: "+statement(actionsOf[gateway], "*"))
	}
	return simulated("the task role", idDefinition, f.Account.TaskRole)
}

func judgeExecutionRole(f *Facts) Finding {
	d := f.Account.Definition
	c := f.container()
	if d != nil && c != nil && aws.ToString(d.ExecutionRoleArn) == "" {
		if !needsExecutionRole(c) {
			return fine("the task definition needs no execution role")
		}
		return wrong(fail.Start, "none", "the task definition has no execution role: ECS can neither pull the image from ECR nor write the log",
			"set executionRoleArn to a role that ECS tasks may assume, with: "+
				statement(slices.Concat(actionsOf["ecr.api"], actionsOf["logs"]), "*"))
	}
	return simulated("the execution role", idDefinition, f.Account.ExecutionRole)
}

func needsExecutionRole(c *ecstypes.ContainerDefinition) bool {
	_, _, isECR := repository(aws.ToString(c.Image))
	return isECR || len(c.Secrets) > 0 || c.LogConfiguration != nil && c.LogConfiguration.LogDriver == ecstypes.LogDriverAwslogs
}

func judgeKeyUser(f *Facts) Finding {
	key := f.execKey()
	switch {
	case f.Account.Cluster == nil:
		return because(idCluster)
	case key == "":
		return fine("ECS Exec is not encrypted by a KMS key of yours")
	case !f.Account.KeyTried:
		return hidden("unasked", "the key", "")
	}
	err := f.Account.KeyErr
	switch answer := awsanswer.Of(err); {
	case err == nil:
		return fine("you may make data keys for ECS Exec")
	case answer.Class == awsanswer.Denied:
		fix := cmp.Or(answer.NextDenied("kms:GenerateDataKey"), "ask for kms:GenerateDataKey")
		if !answer.Explicit {
			fix += ": " + statement([]string{"kms:GenerateDataKey"}, key)
		}
		out := wrong(fail.Denied, "denied", "AWS denies you kms:GenerateDataKey for the key that encrypts ECS Exec"+deniedBy(answer), fix)
		out.class = answer
		return out
	case answer.Class == awsanswer.NotFound, answer.Class == awsanswer.Config:
		return wrong(fail.Usage, "unusable", "the key that encrypts ECS Exec cannot be used: "+plain(err),
			"aws kms enable-key --key-id "+key+"; or set another key in the cluster's executeCommandConfiguration")
	}
	return unseen("the key of ECS Exec", err)
}

func (f *Facts) execKey() string {
	c := f.Account.Cluster
	if c == nil || c.Configuration == nil || c.Configuration.ExecuteCommandConfiguration == nil {
		return ""
	}
	return aws.ToString(c.Configuration.ExecuteCommandConfiguration.KmsKeyId)
}

func judgeKeyTask(f *Facts) Finding {
	key := f.execKey()
	switch {
	case f.Account.Cluster == nil:
		return because(idCluster)
	case key == "":
		return fine("ECS Exec is not encrypted by a KMS key of yours")
	}
	return simulated("the task role", idTaskRole, f.Account.TaskKey)
}

// statement is a statement of a policy that allows the actions.
func statement(actions []string, resource string) string {
	return `{"Effect": "Allow", "Action": ["` + strings.Join(actions, `", "`) + `"], "Resource": ` + strconv.Quote(resource) + "}"
}

// allow is a statement of a policy that allows what the simulator refuses.
func allow(refused []Refused) string {
	var actions []string
	resource := refused[0].Resource
	for _, r := range refused {
		actions = append(actions, r.Action)
		if r.Resource != resource {
			resource = "*"
		}
	}
	if group, _, ok := strings.Cut(resource, ":log-stream:"); ok { // the simulator was asked about one stream
		resource = group + ":*"
	}
	return statement(actions, cmp.Or(resource, "*"))
}

// simulated judges what IAM's simulator says about a role. ground is the check without whose answer the simulator was not asked.
func simulated(what, ground string, s Simulated) Finding {
	role := s.Role[strings.LastIndexByte(s.Role, '/')+1:]
	switch {
	case awsanswer.ClassOf(s.Err) == awsanswer.NotFound, awsanswer.Of(s.Err).Code == "NoSuchEntity":
		return wrong(fail.Start, "missing", fmt.Sprintf("%s %s does not exist", what, role),
			"correct the role in the task definition, or create it: bastion init")
	case s.Err != nil:
		return unseen("what "+what+" "+role+" may do", s.Err)
	case !s.Asked:
		return because(ground)
	case len(s.Refused) == 0:
		return fine("%s has the permissions that it needs", what)
	}
	var actions []string
	for _, r := range s.Refused {
		actions = append(actions, r.Action)
	}
	fix := allow(s.Refused)
	first := s.Refused[0]
	means := fmt.Sprintf("%s %s may not do %s", what, role, strings.Join(actions, ", "))
	switch {
	case first.By != "":
		return wrong(fail.Start, "lacks", means+": a "+first.By+" does not allow it", "have it allowed in the "+first.By+" too: "+fix)
	case first.Explicit:
		return wrong(fail.Start, "denied", means+": one of its policies denies it explicitly", "remove that Deny from the role's policies")
	}
	return wrong(fail.Start, "lacks", means, "add to its policy: "+fix)
}

func judgePreferences(f *Facts) Finding {
	p, age := f.Account.Preferences, f.Settings.Link.SessionMaxAge
	switch {
	case f.Account.PreferencesErr != nil:
		return unseen("Session Manager's preferences", f.Account.PreferencesErr)
	case !f.Account.Asked:
		return hidden("unasked", "Session Manager's preferences", "")
	case p.None:
		return fine("Session Manager has its default preferences")
	case p.Most > 0 && age > 0 && p.Most < age:
		return warn("duration", fmt.Sprintf("Session Manager ends sessions after %s, and session_max_age is %s: sessions are cut before they "+
			"are replaced", p.Most, age),
			fmt.Sprintf("set session_max_age below it: --session-max-age %s", p.Most*9/10))
	}
	return fine("Session Manager's preferences let sessions last long enough")
}

func judgeLastStart(f *Facts) Finding {
	b := f.Account.LastStopped
	switch {
	case b == nil:
		return fine("no start of a bastion has failed lately")
	case !b.StartedAt.IsZero(), f.laterRuns(b):
		return fine("the last bastion has started")
	}
	reasons := []string{}
	for _, e := range b.Exits {
		reasons = append(reasons, e.Reason)
	}
	answer := awsanswer.Stopped(append(reasons, b.StoppedReason, b.StopCode)...)
	if b.StopCode == string(ecstypes.TaskStopCodeUserInitiated) {
		return fine("the last bastion was stopped by somebody while it started")
	}
	out := warn("failed", "the last bastion stopped while it started: "+cmp.Or(b.StoppedReason, "ECS gives no reason"),
		cmp.Or(answer.Next, "bastion up shows whether it lasts"))
	out.class = answer
	return out
}

// laterRuns reports whether a bastion runs that was started after b.
func (f *Facts) laterRuns(b *bastions.Bastion) bool {
	return slices.ContainsFunc(f.Running.All, func(o bastions.Bastion) bool { return o.CreatedAt.After(b.CreatedAt) })
}
