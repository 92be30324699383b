package doctor

import (
	"strings"

	"github.com/bastion-ssm/bastion/internal/pattern"
)

// Check is a row of the table of checks.
type Check struct {
	ID    string
	Looks string   // at what it looks, for the docs and for a report without names
	Needs []string // checks that must not have failed before
	judge func(f *Facts) Finding
}

// Part is a part of the path.
type Part struct {
	Name   string
	Checks []Check
}

// The identifiers of checks that others need.
const (
	idFile       = "config.file"
	idTarget     = "config.target"
	idProfile    = "config.profile"
	idRegion     = "config.region"
	idVariables  = "config.variables"
	idProxy      = "network.proxy"
	idDNS        = "network.dns"
	idTCP        = "network.tcp"
	idTLS        = "network.tls"
	idWebsocket  = "network.websocket"
	idClock      = "machine.clock"
	idFound      = "credentials.found"
	idValid      = "credentials.valid"
	idAccount    = "credentials.account"
	idCluster    = "aws.cluster"
	idDefinition = "aws.task_definition"
	idTaskRole   = "aws.task_role"
	idSubnets    = "aws.subnets"
	idGroups     = "aws.security_groups"
	idRoutes     = "aws.routes"
	idRunning    = "bastion.running"
	idExecAgent  = "bastion.exec_agent"
	idConnect    = "bastion.connect"
	idLastStart  = "aws.last_start"
	idExists     = "target.exists"
	idStatus     = "target.status"
	idVPC        = "target.vpc"
)

// What makes a check of the task moot.
var noTask, noOwnTask = (*Facts).server, (*Facts).others

// unless is a check that is skipped where moot has a finding in its place.
func unless(moot func(*Facts) (Finding, bool), judge func(*Facts) Finding) func(*Facts) Finding {
	return func(f *Facts) Finding {
		if finding, ok := moot(f); ok {
			return finding
		}
		return judge(f)
	}
}

// Checks returns the table of checks, in the order of the path.
func Checks() []Part { return append(here(), there()...) }

// here is the table's part up to AWS's front door.
func here() []Part {
	return []Part{
		{"This machine", []Check{
			{"machine.directories", "the private directories for sockets and state", []string{idFile}, judgeDirectories},
			{"machine.agent", "the agent: a stale socket, another version, an answer", []string{idFile, "machine.directories"}, judgeAgent},
			{"machine.openssh", "bastion's block in ~/.ssh/config: its program, its form", nil, judgeOpenSSH},
			{"machine.hosts", "lines of ended commands in the hosts file", []string{idFile}, judgeHosts},
			{
				"machine.ports", "the local port of the target, or of each configured target: whether it is free, and which program has it",
				[]string{idFile},
				judgePorts,
			},
		}},
		{"Configuration", []Check{
			{idFile, "the settings of flags, variables and the configuration file", nil, judgeFile},
			{idTarget, "the target's form", []string{idFile}, judgeTarget},
			{"config.ca", "the CA bundle for databases (tls_ca)", []string{idFile}, judgeCA},
			{idProfile, "the AWS profile", []string{idFile}, judgeProfile},
			{idRegion, "the AWS region", []string{idFile, idProfile}, judgeRegion},
			{idVariables, "AWS variables that hide the profile, or that are incomplete", []string{idFile}, judgeVariables},
			{"config.login", "a profile in the old form of single sign-on", []string{idFile, idProfile}, judgeLogin},
		}},
		{"Network to AWS", []Check{
			{idProxy, "the proxy on the way to AWS", []string{idRegion}, judgeProxy},
			{idDNS, "the names of AWS's endpoints", []string{idRegion, idProxy}, judgeDNS},
			{idTCP, "connections to AWS's endpoints", []string{idRegion, idProxy, idDNS}, judgeTCP},
			{idTLS, "TLS to AWS's endpoints: who answers, by which certificate", []string{idRegion, idProxy, idDNS, idTCP}, judgeTLS},
			{idWebsocket, "a websocket's request to the message gateway", []string{idRegion, idProxy, idDNS, idTCP, idTLS}, judgeWebsocket},
			{idClock, "this machine's clock, by AWS's", []string{idRegion}, judgeClock},
		}},
		{"Credentials", []Check{
			{idFound, "AWS credentials: whether there are some", []string{idRegion, idVariables}, judgeFound},
			{idValid, "whether AWS accepts them", []string{idFound}, judgeValid},
			{idAccount, "whether they are of the account that the profile and the settings name", []string{idValid}, judgeAccount},
		}},
	}
}

// there is the table's part behind it.
func there() []Part {
	ground := []string{idFile, idValid, idAccount}
	return []Part{
		{"The bastion's set-up in AWS", []Check{
			{idCluster, "the ECS cluster", ground, unless(noTask, judgeCluster)},
			{idDefinition, "the task definition: whether it is there and active, and made for Fargate", ground, unless(noOwnTask, judgeDefinition)},
			{
				"aws.container", "what ECS Exec needs of the container: a writable file system, an init process, no keys in variables",
				[]string{idDefinition},
				judgeContainer,
			},
			{"aws.task_size", "the task's CPU and memory, for the sessions that are wanted", []string{idDefinition}, judgeSize},
			{idTaskRole, "the task role: whether there is one, and whether it lets ECS Exec's agent work", []string{idDefinition}, judgeTaskRole},
			{
				"aws.execution_role", "the execution role: whether it may pull the image and write the log",
				[]string{idDefinition},
				judgeExecutionRole,
			},
			{"aws.kms_user", "the KMS key of ECS Exec: whether you may make data keys", []string{idCluster}, judgeKeyUser},
			{"aws.kms_task", "the KMS key of ECS Exec: whether the task role may decrypt", []string{idCluster, idTaskRole}, judgeKeyTask},
			{idSubnets, "the subnets: whether they are there, in one VPC, with free addresses", ground, unless(noOwnTask, judgeSubnets)},
			{
				idGroups, "the security groups: whether they are there, in that VPC, and let the task out to 443",
				[]string{idFile, idValid, idAccount, idSubnets},
				unless(noOwnTask, judgeGroups),
			},
			{
				idRoutes, "the task's way to AWS: NAT gateway, internet gateway or VPC endpoints",
				[]string{idSubnets, idGroups},
				unless(noOwnTask, judgeRoutes),
			},
			{
				"aws.endpoints", "the VPC endpoints on that way: security group, private DNS, policy",
				[]string{idSubnets, idGroups, idRoutes},
				judgeEndpoints,
			},
			{"aws.session_preferences", "Session Manager's preferences against session_max_age", ground, unless(noTask, judgePreferences)},
			{
				idLastStart, "why the last bastion stopped while it started: image, log, capacity, quota",
				[]string{idCluster},
				unless(noOwnTask, judgeLastStart),
			},
		}},
		{"The running bastion", []Check{
			{idRunning, "your bastion's tasks", []string{idCluster}, unless(noTask, judgeRunning)},
			{"bastion.task", "the task: ECS Exec, its platform version, whether it is the one that you would start", []string{idRunning}, judgeTask},
			{idExecAgent, "ECS Exec's agent in it", []string{idRunning, "bastion.task"}, judgeExecAgent},
			{idConnect, "a connection to it: ExecuteCommand, StartSession, websocket, SSH", []string{idExecAgent}, judgeConnect},
			{
				"bastion.last_try", "why the agent's last attempt to start a bastion failed: a permission, quota, capacity",
				[]string{idCluster, idDefinition, idSubnets, idGroups, idRoutes},
				judgeLastTry,
			},
			{"bastion.sessions", "its open sessions against the limit", []string{idConnect}, judgeSessions},
			{"bastion.headroom", "its CPU and memory", []string{idConnect}, judgeHeadroom},
		}},
		{"The target", []Check{
			{idExists, "whether AWS knows the target", []string{idFile, idValid, idAccount, idTarget}, judgeExists},
			{idStatus, "its status in AWS", []string{idExists}, judgeStatus},
			{"target.iam", "whether it takes IAM tokens", []string{idExists}, judgeIAM},
			{idVPC, "whether the bastion is in the target's VPC and region, or reaches it from another one", []string{idExists, idStatus}, judgeVPC},
			{"target.security_group", "whether its security groups admit the bastion, and the bastion's let it go there", []string{
				idExists, idStatus, idVPC, idSubnets, idGroups,
			}, judgeAdmits},
			{"target.reach", "a connection to it from the bastion: its name, the lists of destinations, the port", []string{
				idExists, idStatus, idVPC, idConnect,
			}, judgeReach},
		}},
	}
}

// judge judges the facts by all checks. A check runs after those that it needs, wherever they stand in the table.
func judge(f *Facts, parts []Part) []Finding {
	all := make(map[string]Check)
	for _, p := range parts {
		for _, c := range p.Checks {
			all[c.ID] = c
		}
	}
	known := make(map[string]Finding)
	var of func(id string) Finding
	of = func(id string) Finding {
		if finding, ok := known[id]; ok {
			return finding
		}
		c := all[id]
		finding := Finding{}
		for _, need := range c.Needs {
			if ground := of(need); ground.blocks() {
				finding = because(need)
				if ground.Needs != "" {
					finding = because(ground.Needs) // the cause itself
				}
				break
			}
		}
		if finding.Level == "" {
			finding = c.judge(f)
		}
		finding.ID = id
		finding.Fix = inEnvironment(finding.Fix, f.Settings.Environment)
		known[id] = finding
		return finding
	}
	var out []Finding
	for _, p := range parts {
		for _, c := range p.Checks {
			out = append(out, of(c.ID))
		}
	}
	return out
}

// ofAnEnvironment matches the program's commands in hints that work in one environment.
var ofAnEnvironment = pattern.Lazy(`\bbastion (down|up|init|upgrade|stop|forward|ls targets|doctor --fix|login( --profile)?)\b`)

// inEnvironment gives the commands of a hint the environment that was examined. A login that names its profile needs none.
func inEnvironment(hint, environment string) string {
	if environment == "" {
		return hint
	}
	return ofAnEnvironment().ReplaceAllStringFunc(hint, func(command string) string {
		if strings.HasSuffix(command, " --profile") {
			return command
		}
		return command + " -e " + environment
	})
}

// blocks reports whether what builds on the check makes no sense. What cannot be seen may hold.
func (f Finding) blocks() bool {
	return f.Level == Error || f.Level == Skipped && (f.Needs != "" || f.Case == caseNone)
}

// caseNone is the case of a skipped check whose thing is not there: no target was named, no bastion runs.
const caseNone = "none"
