package config

import (
	"net/netip"
	"strings"
	"time"
)

// Setting describes one setting. Its flag, environment variable and file key are three spellings of Key.
type Setting struct {
	Key     string // key in the configuration file
	Short   string // a one-letter flag, or ""
	Group   string // heading in help and documentation
	Value   string // placeholder of the value in help; "" for a switch
	Default string // in the text form of flags
	Trust   Trust  // whether an untrusted project file may give it
	Use     Use    // what its value belongs to
	Help    string

	kind kind
	path func(string) bool // reports whether a value is a path, which in a file is relative to the file
}

// Trust says which files may give a setting. Flags, variables, the user's own file, and a named or trusted file may give every
// setting.
type Trust int

const (
	// Personal settings count in a project file only after bastion trust. They run a program, name a local file or directory,
	// choose an identity or a key, open a port, or set what AWS executes. This is the zero value.
	Personal Trust = iota
	// Project settings count in every project file: a team shares them. Their harm is bounded by the bastion's allow-list and
	// the user's AWS permissions.
	Project
)

// Use says what a setting's value belongs to.
type Use int

const (
	// ForCommand settings belong to a command or to the agent's process. Links and forwards do not depend on them. This is the
	// zero value.
	ForCommand Use = iota
	// ForLink settings belong to a link: requests with different values do not share a link.
	ForLink
	// ForForward settings belong to a target's forward. A request reuses a running forward only if the values agree.
	ForForward
	// ForProxy settings belong to a proxy, in the same way.
	ForProxy
)

// Flag returns the flag's name, without dashes.
func (s *Setting) Flag() string { return strings.ReplaceAll(s.Key, "_", "-") }

// Env returns the environment variable's name.
func (s *Setting) Env() string { return "BASTION_" + strings.ToUpper(s.Key) }

// IsSwitch reports whether the setting is true or false.
func (s *Setting) IsSwitch() bool { return s.kind.shape() == onOff }

// The groups, in the order of the documentation.
const (
	GroupAWS     = "AWS account"
	GroupBastion = "Bastion task"
	GroupGrant   = "Grants"
	GroupLink    = "Link and forwards"
	GroupProxy   = "Proxies and browsers"
	GroupSSHD    = "OpenSSH server instead of a bastion task"
	GroupLocal   = "This machine"
	GroupOutput  = "Output"
)

// Groups returns the groups in the order of the documentation.
func Groups() []string {
	return []string{GroupAWS, GroupBastion, GroupGrant, GroupLink, GroupProxy, GroupSSHD, GroupLocal, GroupOutput}
}

// All returns the table of settings. The caller must not change it.
func All() []*Setting { return table }

// Lookup returns the setting with the key, or nil.
func Lookup(key string) *Setting {
	for _, s := range table {
		if s.Key == key {
			return s
		}
	}
	return nil
}

var table = []*Setting{
	{
		Key: environmentKey, Short: "e", Group: GroupAWS, Value: "NAME", Trust: Project, Use: ForLink,
		Help: "environment of the configuration file, such as dev or prod, whose values and targets count (by default that " +
			"of bastion use)",
		kind: text(func(s *Settings) *string { return &s.Environment }, checkName),
	},
	{
		Key: "profile", Group: GroupAWS, Value: "NAME", Trust: Personal, Use: ForLink,
		Help: "profile of the AWS configuration (by default that of AWS_PROFILE, as in the AWS CLI)",
		kind: text(func(s *Settings) *string { return &s.AWS.Profile }),
	},
	{
		Key: "region", Group: GroupAWS, Value: "REGION", Trust: Project, Use: ForLink,
		Help: "AWS region (by default that of AWS_REGION or of the profile)",
		kind: text(func(s *Settings) *string { return &s.AWS.Region }, awsRegion),
	},
	{
		Key: "aws_timeout", Group: GroupAWS, Value: "DURATION", Default: "1m", Trust: Project, Use: ForLink,
		Help: "deadline of one call to AWS with its retries; one attempt gets a third of it",
		kind: span(func(s *Settings) *time.Duration { return &s.AWS.Timeout }, positive),
	},
	{
		Key: "mfa_command", Group: GroupAWS, Value: "COMMAND", Trust: Personal, Use: ForLink,
		Help: "program that prints the code of a profile's MFA device (mfa_serial), with its arguments, run without a shell; " +
			"empty: bastion asks at the terminal",
		kind: text(func(s *Settings) *string { return &s.AWS.MFACommand }),
	},
	{
		Key: "cluster", Group: GroupBastion, Value: "NAME", Default: "bastion", Trust: Project, Use: ForLink,
		Help: "ECS cluster of the bastion task, by name or ARN",
		kind: text(func(s *Settings) *string { return &s.Bastion.Cluster }, notEmpty),
	},
	{
		Key: "task_definition", Group: GroupBastion, Value: "NAME[:REV]", Default: "bastion", Trust: Personal, Use: ForLink,
		Help: "task definition of the bastion: family, family:revision or ARN",
		kind: text(func(s *Settings) *string { return &s.Bastion.TaskDefinition }, notEmpty),
	},
	{
		Key: "shared_service", Group: GroupBastion, Value: "NAME", Trust: Personal, Use: ForLink,
		Help: "ECS service whose tasks are bastions that people share; empty: a task of your own",
		kind: text(func(s *Settings) *string { return &s.Bastion.SharedService }),
	},
	{
		Key: "audit_log_group", Group: GroupBastion, Value: "NAME", Default: "/bastion", Trust: Personal,
		Help: "CloudWatch log group of the bastions' audit lines, for audit and cost",
		kind: text(func(s *Settings) *string { return &s.Bastion.AuditLogGroup }, notEmpty),
	},
	{
		Key: "container", Group: GroupBastion, Value: "NAME", Default: "bastion", Trust: Personal, Use: ForLink,
		Help: "container of the task in which bastiond runs",
		kind: text(func(s *Settings) *string { return &s.Bastion.Container }, notEmpty),
	},
	{
		Key: "subnets", Group: GroupBastion, Value: "ID,...", Trust: Project, Use: ForLink,
		Help: "subnets for the task; empty: found by subnet_tags",
		kind: list(func(s *Settings) *[]string { return &s.Bastion.Subnets }, word, plain),
	},
	{
		Key: "subnet_tags", Group: GroupBastion, Value: "KEY=VALUE,...", Default: "bastion=true", Trust: Project, Use: ForLink,
		Help: "tags that find the subnets if subnets is empty",
		kind: pairs(func(s *Settings) *map[string]string { return &s.Bastion.SubnetTags }),
	},
	{
		Key: "security_groups", Group: GroupBastion, Value: "ID,...", Trust: Project, Use: ForLink,
		Help: "security groups of the task; empty: found by security_group_tags",
		kind: list(func(s *Settings) *[]string { return &s.Bastion.SecurityGroups }, word, plain),
	},
	{
		Key: "security_group_tags", Group: GroupBastion, Value: "KEY=VALUE,...", Default: "bastion=true", Trust: Project, Use: ForLink,
		Help: "tags that find the security groups if security_groups is empty",
		kind: pairs(func(s *Settings) *map[string]string { return &s.Bastion.SecurityGroupTags }),
	},
	{
		Key: "assign_public_ip", Group: GroupBastion, Default: "false", Trust: Project, Use: ForLink,
		Help: "give the task a public address; needed only in subnets without a NAT gateway or VPC endpoints",
		kind: toggle(func(s *Settings) *bool { return &s.Bastion.AssignPublicIP }),
	},
	{
		Key: "task_size", Group: GroupBastion, Value: strings.Join(sizeNames(), "|"), Trust: Project, Use: ForLink,
		Help: "size of a new task: small (0.25 vCPU, 0.5 GB), medium (0.5 vCPU, 1 GB) or large (1 vCPU, 2 GB); its " +
			"CPU limits the speed. Empty: the task definition's size",
		kind: text(func(s *Settings) *string { return &s.Bastion.Size }, oneOf(sizeNames()...)),
	},
	{
		Key: "task_cpu", Group: GroupBastion, Value: "UNITS", Default: "0", Trust: Project, Use: ForLink,
		Help: "CPU units of a new task, 256 to 16384 in powers of two (1024 is a vCPU), instead of task_size's; 0: " +
			"not set",
		kind: number(func(s *Settings) *int { return &s.Bastion.CPU }, taskCPU),
	},
	{
		Key: "task_memory", Group: GroupBastion, Value: "MIB", Default: "0", Trust: Project, Use: ForLink,
		Help: "memory of a new task, a value that Fargate offers for its CPU; 0: the smallest of them",
		kind: number(func(s *Settings) *int { return &s.Bastion.Memory }, taskMemory),
	},
	{
		Key: "task_capacity", Group: GroupBastion, Value: CapacityFargate + "|" + CapacitySpot, Default: CapacityFargate, Trust: Project,
		Use:  ForLink,
		Help: "capacity of a new task: Fargate, or Fargate Spot, which costs less and may end the task with two minutes' notice",
		kind: text(func(s *Settings) *string { return &s.Bastion.Capacity }, oneOf(CapacityFargate, CapacitySpot)),
	},
	{
		Key: "tags", Group: GroupBastion, Value: "KEY=VALUE,...", Trust: Project, Use: ForLink,
		Help: "further tags for new tasks, for example a cost centre",
		kind: pairs(func(s *Settings) *map[string]string { return &s.Bastion.Tags }),
	},
	{
		Key: "start_timeout", Group: GroupBastion, Value: "DURATION", Default: "5m", Trust: Project, Use: ForLink,
		Help: "deadline for a new bastion: task running, exec agent connected, bastiond answering",
		kind: span(func(s *Settings) *time.Duration { return &s.Bastion.StartTimeout }, positive),
	},
	{
		Key: "grant_command", Group: GroupGrant, Value: "COMMAND", Default: "/bastiond grant", Trust: Personal, Use: ForLink,
		Help: "command line that ECS Exec runs in the container to hand over a grant; the grant is its last word",
		kind: text(func(s *Settings) *string { return &s.Grant.Command }, notEmpty),
	},
	{
		Key: "grant_lifetime", Group: GroupGrant, Value: "DURATION", Default: "1h", Trust: Project, Use: ForLink,
		Help: "how long the bastion accepts the ephemeral key; the agent renews a grant in use",
		kind: span(func(s *Settings) *time.Duration { return &s.Grant.Lifetime }, between(time.Minute, 12*time.Hour)),
	},
	{
		Key: "permit", Group: GroupGrant, Value: "HOST:PORT,...", Trust: Project, Use: ForLink,
		Help: "destinations that grants are narrowed to; empty: all that the bastion allows. Without the agent, " +
			"forward and proxy to a host request only their own destinations",
		kind: list(func(s *Settings) *[]string { return &s.Grant.Permit }, hostPort, plain),
	},
	{
		Key: "sessions", Group: GroupLink, Value: "NUMBER", Default: "8", Trust: Project, Use: ForLink,
		Help: "most SSM sessions of one link; a link starts with one, adds more while they make it faster, and " +
			"ends unused ones",
		kind: number(func(s *Settings) *int { return &s.Link.Sessions }, intBetween(1, 16)),
	},
	{
		Key: "session_max_age", Group: GroupLink, Value: "DURATION", Default: "50m", Trust: Project, Use: ForLink,
		Help: "age at which the link replaces a session, unseen by its connections; AWS closes a session's " +
			"websocket after about an hour",
		kind: span(func(s *Settings) *time.Duration { return &s.Link.SessionMaxAge }, between(time.Minute, 24*time.Hour)),
	},
	{
		Key: "session_document", Group: GroupLink, Value: "auto|NAME", Default: "auto", Trust: Project, Use: ForLink,
		Help: "SSM document of the sessions: AWS-StartSSHSession or AWS-StartPortForwardingSession; auto: the " +
			"first, or the second on ECS tasks if AWS refuses the first",
		kind: text(func(s *Settings) *string { return &s.Link.SessionDocument },
			oneOf("auto", "AWS-StartSSHSession", "AWS-StartPortForwardingSession")),
	},
	{
		Key: "linger", Group: GroupLink, Value: "DURATION", Default: "30m", Trust: Project, Use: ForLink,
		Help: "how long a link and its connections wait without a session to the bastion, for example during " +
			"sleep, a network outage or expired credentials",
		kind: span(func(s *Settings) *time.Duration { return &s.Link.Linger }, between(time.Second, 24*time.Hour)),
	},
	{
		Key: "connect_timeout", Group: GroupLink, Value: "DURATION", Default: "30s", Trust: Project, Use: ForLink,
		Help: "deadline of one attempt to connect to a running bastion",
		kind: span(func(s *Settings) *time.Duration { return &s.Link.ConnectTimeout }, positive),
	},
	{
		Key: "reconnect_timeout", Group: GroupLink, Value: "DURATION", Default: "30m", Trust: Project, Use: ForLink,
		Help: "how long the link retries before the command gives up with exit code 8",
		kind: span(func(s *Settings) *time.Duration { return &s.Link.ReconnectTimeout }, positive),
	},
	{
		Key: "reconnect_min", Group: GroupLink, Value: "DURATION", Default: "500ms", Trust: Project, Use: ForLink,
		Help: "backoff before the second attempt to reconnect; it doubles, with jitter, up to reconnect_max",
		kind: span(func(s *Settings) *time.Duration { return &s.Link.ReconnectMin }, positive),
	},
	{
		Key: "reconnect_max", Group: GroupLink, Value: "DURATION", Default: "30s", Trust: Project, Use: ForLink,
		Help: "longest backoff between attempts to reconnect",
		kind: span(func(s *Settings) *time.Duration { return &s.Link.ReconnectMax }, positive),
	},
	{
		Key: "keepalive", Group: GroupLink, Value: "DURATION", Default: "15s", Trust: Project, Use: ForLink,
		Help: "interval of the probes that detect a dead SSH connection over one session (to an OpenSSH server)",
		kind: span(func(s *Settings) *time.Duration { return &s.Link.Keepalive }, positive),
	},
	{
		Key: "hold_max", Group: GroupLink, Value: "NUMBER", Default: "256", Trust: Project, Use: ForLink,
		Help: "most connections of a forward that wait for a link that is down; further ones are closed at once",
		kind: number(func(s *Settings) *int { return &s.Link.HoldMax }, intBetween(0, 65535)),
	},
	{
		Key: "hold_timeout", Group: GroupLink, Value: "DURATION", Default: "1m", Trust: Project, Use: ForLink,
		Help: "how long a connection waits for a link that is down",
		kind: span(func(s *Settings) *time.Duration { return &s.Link.HoldTimeout }, positive),
	},
	{
		Key: "allow_remote", Group: GroupLink, Default: "false", Trust: Personal,
		Help: "let forward and socks listen on addresses that other machines reach; every client that reaches them " +
			"uses the tunnel",
		kind: toggle(func(s *Settings) *bool { return &s.Forward.AllowRemote }),
	},
	{
		Key: "proxy_domains", Group: GroupProxy, Value: "DOMAIN,...", Default: "internal", Trust: Project, Use: ForProxy,
		Help: "names that the PAC file of socks and browser sends through the bastion: corp.internal means that " +
			"name and all below it, *.corp.internal only those below",
		kind: list(func(s *Settings) *[]string { return &s.Proxy.Domains }, Domain, plain),
	},
	{
		Key: "proxy_cidrs", Group: GroupProxy, Value: "CIDR,...", Trust: Project, Use: ForProxy,
		Help: "networks whose addresses the PAC file sends through the bastion, if a URL has an address; it never " +
			"resolves names",
		kind: list(func(s *Settings) *[]netip.Prefix { return &s.Proxy.CIDRs }, CIDR, netip.Prefix.String),
	},
	{
		Key: "proxy_auth_file", Group: GroupProxy, Value: "FILE", Trust: Personal, Use: ForProxy,
		Help: "file with USER:PASSWORD, readable only by its owner, that clients of socks must send; by default " +
			"they need no password",
		kind: text(func(s *Settings) *string { return &s.Proxy.AuthFile }),
		path: func(string) bool { return true },
	},
	{
		Key: "browser", Group: GroupProxy, Value: "NAME|PATH", Trust: Personal,
		Help: "browser for bastion browser: chromium, chrome, edge, brave, firefox or a program; " +
			"by default the first installed one",
		kind: text(func(s *Settings) *string { return &s.Proxy.Browser }),
		path: func(v string) bool { return strings.ContainsAny(v, "/\\") },
	},
	{
		Key: "hosts", Group: GroupLink, Default: "false", Trust: Personal, Use: ForForward,
		Help: "give each target of forward and exec its own address in 127.0.0.0/8, with the target's port, and " +
			"its name in hosts_file while they run",
		kind: toggle(func(s *Settings) *bool { return &s.Forward.Hosts }),
	},
	{
		Key: "tls_ca", Group: GroupLink, Value: "FILE", Trust: Personal, Use: ForForward,
		Help: "CA bundle that clients use to verify the database's certificate, in what exec sets and url prints; " +
			"for RDS, global-bundle.pem",
		kind: text(func(s *Settings) *string { return &s.Forward.TLSCA }),
		path: func(string) bool { return true },
	},
	{
		Key: "redis_cluster", Group: GroupLink, Value: "auto|follow|terminate|off", Default: "auto", Trust: Project, Use: ForForward,
		Help: "how clients reach the nodes of a Redis or Valkey cluster: follow rewrites its answers, terminate " +
			"also adds TLS, off does neither; auto: follow for clusters without TLS",
		kind: text(func(s *Settings) *string { return &s.Forward.RedisCluster }, oneOf("auto", "follow", "terminate", "off")),
	},
	{
		Key: "target", Group: GroupSSHD, Value: "TARGET", Trust: Personal, Use: ForLink,
		Help: "SSM target of a running OpenSSH server, instead of a task with bastiond: i-..., mi-... or " +
			"ecs:<cluster>_<task id>_<runtime id>",
		kind: text(func(s *Settings) *string { return &s.SSHD.Target }, ssmTarget),
	},
	{
		Key: "ssh_user", Group: GroupSSHD, Value: "USER", Default: "ec2-user", Trust: Personal, Use: ForLink,
		Help: "user to sign in as",
		kind: text(func(s *Settings) *string { return &s.SSHD.User }, notEmpty),
	},
	{
		Key: "ssh_port", Group: GroupSSHD, Value: "PORT", Default: "22", Trust: Personal, Use: ForLink,
		Help: "port of the OpenSSH server on the target",
		kind: number(func(s *Settings) *int { return &s.SSHD.Port }, intBetween(1, 65535)),
	},
	{
		Key: "ssh_host_key", Group: GroupSSHD, Value: "KEY|FILE", Trust: Personal, Use: ForLink,
		Help: "host key of the OpenSSH server, required with target: the key (\"ssh-ed25519 AAAA...\") or a " +
			"known_hosts file with an entry for the target",
		kind: text(func(s *Settings) *string { return &s.SSHD.HostKey }),
		path: func(v string) bool { return !IsPublicKey(v) },
	},
	{
		Key: "ssh_identity", Group: GroupSSHD, Value: "agent|FILE", Default: "agent", Trust: Personal, Use: ForLink,
		Help: "the user's key: the SSH agent of SSH_AUTH_SOCK, or a private key file",
		kind: text(func(s *Settings) *string { return &s.SSHD.Identity }, notEmpty),
		path: func(v string) bool { return v != "agent" },
	},
	{
		Key: "no_agent", Group: GroupLocal, Default: "false", Trust: Project,
		Help: "work without the background agent: the command has its own link, which ends with it",
		kind: toggle(func(s *Settings) *bool { return &s.Local.NoAgent }),
	},
	{
		Key: "agent_idle", Group: GroupLocal, Value: "DURATION", Default: "10m", Trust: Personal,
		Help: "how long the agent keeps an unused link, and itself without work; the value at the agent's start counts",
		kind: span(func(s *Settings) *time.Duration { return &s.Local.AgentIdle }, between(time.Second, 24*time.Hour)),
	},
	{
		Key: "hosts_file", Group: GroupLocal, Value: "FILE", Trust: Personal,
		Help: "hosts file that hosts changes, in a block that it removes again; by default the system's " +
			"(/etc/hosts), which needs the rights to write it",
		kind: text(func(s *Settings) *string { return &s.Local.HostsFile }),
		path: func(string) bool { return true },
	},
	{
		Key: "runtime_dir", Group: GroupLocal, Value: "DIR", Trust: Personal,
		Help: "directory of the sockets of the agent and for OpenSSH (mode 0700); by default bastion in " +
			"XDG_RUNTIME_DIR or in the user's cache directory",
		kind: text(func(s *Settings) *string { return &s.Local.RuntimeDir }),
		path: func(string) bool { return true },
	},
	{
		Key: "state_dir", Group: GroupLocal, Value: "DIR", Trust: Personal,
		Help: "directory of the agent's log and of the list of detached forwards (mode 0700); by default bastion " +
			"in XDG_STATE_HOME or in the user's application data",
		kind: text(func(s *Settings) *string { return &s.Local.StateDir }),
		path: func(string) bool { return true },
	},
	{
		Key: "remember_host_keys", Group: GroupLocal, Default: "true", Trust: Personal,
		Help: "keep a task's host key, received through ECS Exec, in runtime_dir; later commands connect without " +
			"waiting for ECS Exec",
		kind: toggle(func(s *Settings) *bool { return &s.Local.RememberHostKeys }),
	},
	{
		Key: "notify", Group: GroupLocal, Default: "true", Trust: Personal,
		Help: "let the agent ask by a desktop notification when you have to sign in to AWS again; the value at the " +
			"agent's start counts",
		kind: toggle(func(s *Settings) *bool { return &s.Local.Notify }),
	},
	{
		Key: "metrics_listen", Group: GroupLocal, Value: "ADDRESS:PORT", Trust: Personal,
		Help: "loopback address at which the agent serves /metrics, /livez and /readyz; empty: only on its socket. " +
			"Needs metrics_token_file; the value at the agent's start counts",
		kind: address(func(s *Settings) *netip.AddrPort { return &s.Local.MetricsListen }),
	},
	{
		Key: "metrics_token_file", Group: GroupLocal, Value: "FILE", Trust: Personal,
		Help: "file with the bearer token for /metrics, readable only by you, because other users of this machine " +
			"reach loopback addresses too",
		kind: text(func(s *Settings) *string { return &s.Local.MetricsTokenFile }),
		path: func(string) bool { return true },
	},
	{
		Key: "price_vcpu_hour", Group: GroupLocal, Value: "USD", Default: "0.04048", Trust: Project,
		Help: "price of a vCPU for an hour, for the cost estimate; by default Fargate's for Linux/x86 in us-east-1",
		kind: price(func(s *Settings) *float64 { return &s.Local.PriceVCPUHour }),
	},
	{
		Key: "price_gb_hour", Group: GroupLocal, Value: "USD", Default: "0.004445", Trust: Project,
		Help: "price of a gigabyte of memory for an hour, for the cost estimate",
		kind: price(func(s *Settings) *float64 { return &s.Local.PriceGBHour }),
	},
	{
		Key: "output", Short: "o", Group: GroupOutput, Value: "text|json|csv", Default: "text", Trust: Project,
		Help: "format of standard output; csv is for audit and cost",
		kind: text(func(s *Settings) *string { return &s.Output.Format }, oneOf("text", "json", "csv")),
	},
	{
		Key: "quiet", Short: "q", Group: GroupOutput, Default: "false", Trust: Project,
		Help: "print errors only on standard error, without progress",
		kind: toggle(func(s *Settings) *bool { return &s.Output.Quiet }),
	},
	{
		Key: "verbose", Short: "v", Group: GroupOutput, Default: "false", Trust: Project,
		Help: "log each step on standard error",
		kind: toggle(func(s *Settings) *bool { return &s.Output.Verbose }),
	},
}
