// Package config holds every setting of the command line: one table gives each its flag, its environment variable and its
// key in the configuration file, and Load merges the three. It knows neither AWS nor SSH.
package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/duration"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Settings are the merged settings. docs/configuration.md says what each means.
type Settings struct {
	Profile string
	Region  string
	// AWSTimeout bounds each call to AWS.
	AWSTimeout time.Duration

	Cluster           string
	TaskDefinition    string
	Container         string
	Subnets           []string
	SubnetTags        map[string]string
	SecurityGroups    []string
	SecurityGroupTags map[string]string
	AssignPublicIP    bool
	TaskSize          string
	TaskCPU           int
	TaskMemory        int
	Tags              map[string]string
	GrantCommand      string
	GrantLifetime     time.Duration
	Permit            []string

	StartTimeout     time.Duration
	ConnectTimeout   time.Duration
	ReconnectTimeout time.Duration
	ReconnectMin     time.Duration
	ReconnectMax     time.Duration
	Keepalive        time.Duration
	Sessions         int
	SessionMaxAge    time.Duration
	SessionDocument  string
	Linger           time.Duration
	HoldMax          int
	HoldTimeout      time.Duration
	AllowRemote      bool
	Hosts            bool
	TLSCA            string
	RedisCluster     string

	ProxyDomains  []string
	ProxyCIDRs    []string
	ProxyAuthFile string
	Browser       string

	Target      string
	SSHUser     string
	SSHPort     int
	SSHHostKey  string
	SSHIdentity string

	NoAgent          bool
	AgentIdle        time.Duration
	HostsFile        string
	RuntimeDir       string
	StateDir         string
	RememberHostKeys bool
	MetricsListen    string
	MetricsTokenFile string
	PriceVCPUHour    float64
	PriceGBHour      float64

	Output  string
	Quiet   bool
	Verbose bool

	// Targets are the named targets of the file; they have no flag.
	Targets map[string]Target
	// File is the configuration file that was read, or "".
	File string
}

// Target is a named target of the configuration file.
type Target struct {
	// Spec is what the name stands for: rds:ID, cache:ID or host:port.
	Spec string
	// LocalPort is the port that forward listens on unless the command line names one; 0 means the target's own port.
	LocalPort int
	// Where is its place in the file, for errors.
	Where string
}

// Setting describes one setting: flag, environment variable and key are three spellings of its Key.
type Setting struct {
	Key     string // its key in the configuration file
	Short   string // a one-letter flag, or ""
	Group   string // the heading it is documented under
	Value   string // what its value looks like, for help; "" for a switch
	Default string // its default, in the text form that flags take
	Trust   Trust  // whether a file that was found by its place may give it
	Help    string

	field func(*Settings) any
	check func(string) error
	path  func(string) bool // reports whether a value is a path, which the file may give relative to itself
}

// Trust says from which files a setting is taken. A file that the user has named or trusted, the user's own file, options and
// variables give every setting.
type Trust int

const (
	// Personal settings are not taken from a project file before bastion trust: they run a program, name a file or directory of
	// this machine, choose an identity or a key, open a port or say what is executed in AWS. The zero value is this one.
	Personal Trust = iota
	// Project settings are taken from every project file: what a team shares, and what can do no more harm than the bastion's own
	// allow-list and the user's permissions in AWS let it.
	Project
)

// Flag returns the name of the flag, without dashes.
func (s *Setting) Flag() string { return strings.ReplaceAll(s.Key, "_", "-") }

// Env returns the name of the environment variable.
func (s *Setting) Env() string { return "BASTION_" + strings.ToUpper(s.Key) }

// IsSwitch reports whether the setting is true or false.
func (s *Setting) IsSwitch() bool {
	_, ok := s.field(new(Settings)).(*bool)
	return ok
}

// IsMap reports whether the setting is a set of name=value pairs.
func (s *Setting) IsMap() bool {
	_, ok := s.field(new(Settings)).(*map[string]string)
	return ok
}

// IsList reports whether the setting is a list.
func (s *Setting) IsList() bool {
	_, ok := s.field(new(Settings)).(*[]string)
	return ok
}

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
		Key: "profile", Group: GroupAWS, Value: "NAME", Trust: Personal,
		Help:  "profile of the AWS configuration (by default that of AWS_PROFILE, as in the AWS CLI)",
		field: func(s *Settings) any { return &s.Profile },
	},
	{
		Key: "region", Group: GroupAWS, Value: "REGION", Trust: Project,
		Help:  "AWS region (by default that of AWS_REGION or of the profile)",
		field: func(s *Settings) any { return &s.Region },
		check: awsRegion,
	},
	{
		Key: "aws_timeout", Group: GroupAWS, Value: "DURATION", Default: "1m", Trust: Project,
		Help:  "deadline of one call to AWS with its retries; one attempt gets a third of it",
		field: func(s *Settings) any { return &s.AWSTimeout },
		check: positive,
	},
	{
		Key: "cluster", Group: GroupBastion, Value: "NAME", Default: "bastion", Trust: Project,
		Help:  "ECS cluster of the bastion task, by name or ARN",
		field: func(s *Settings) any { return &s.Cluster },
		check: notEmpty,
	},
	{
		Key: "task_definition", Group: GroupBastion, Value: "NAME[:REV]", Default: "bastion", Trust: Personal,
		Help:  "task definition of the bastion: family, family:revision or ARN",
		field: func(s *Settings) any { return &s.TaskDefinition },
		check: notEmpty,
	},
	{
		Key: "container", Group: GroupBastion, Value: "NAME", Default: "bastion", Trust: Personal,
		Help:  "container of the task in which bastiond runs",
		field: func(s *Settings) any { return &s.Container },
		check: notEmpty,
	},
	{
		Key: "subnets", Group: GroupBastion, Value: "ID,...", Trust: Project,
		Help:  "subnets for the task; empty: found by subnet_tags",
		field: func(s *Settings) any { return &s.Subnets },
	},
	{
		Key: "subnet_tags", Group: GroupBastion, Value: "KEY=VALUE,...", Default: "bastion=true", Trust: Project,
		Help:  "tags that find the subnets if subnets is empty",
		field: func(s *Settings) any { return &s.SubnetTags },
	},
	{
		Key: "security_groups", Group: GroupBastion, Value: "ID,...", Trust: Project,
		Help:  "security groups of the task; empty: found by security_group_tags",
		field: func(s *Settings) any { return &s.SecurityGroups },
	},
	{
		Key: "security_group_tags", Group: GroupBastion, Value: "KEY=VALUE,...", Default: "bastion=true", Trust: Project,
		Help:  "tags that find the security groups if security_groups is empty",
		field: func(s *Settings) any { return &s.SecurityGroupTags },
	},
	{
		Key: "assign_public_ip", Group: GroupBastion, Default: "false", Trust: Project,
		Help:  "give the task a public address; needed only in subnets without a NAT gateway or VPC endpoints",
		field: func(s *Settings) any { return &s.AssignPublicIP },
	},
	{
		Key: "task_size", Group: GroupBastion, Value: strings.Join(sizeNames(), "|"), Trust: Project,
		Help: "size of a new task: small (0.25 vCPU, 0.5 GB), medium (0.5 vCPU, 1 GB) or large (1 vCPU, 2 GB); its " +
			"CPU limits the speed. Empty: the task definition's size",
		field: func(s *Settings) any { return &s.TaskSize },
		check: oneOf(sizeNames()...),
	},
	{
		Key: "task_cpu", Group: GroupBastion, Value: "UNITS", Default: "0", Trust: Project,
		Help: "CPU units of a new task, 256 to 16384 in powers of two (1024 is a vCPU), instead of task_size's; 0: " +
			"not set",
		field: func(s *Settings) any { return &s.TaskCPU },
		check: taskCPU,
	},
	{
		Key: "task_memory", Group: GroupBastion, Value: "MIB", Default: "0", Trust: Project,
		Help:  "memory of a new task, a value that Fargate offers for its CPU; 0: the smallest of them",
		field: func(s *Settings) any { return &s.TaskMemory },
		check: taskMemory,
	},
	{
		Key: "tags", Group: GroupBastion, Value: "KEY=VALUE,...", Trust: Project,
		Help:  "further tags for new tasks, for example a cost centre",
		field: func(s *Settings) any { return &s.Tags },
	},
	{
		Key: "start_timeout", Group: GroupBastion, Value: "DURATION", Default: "5m", Trust: Project,
		Help:  "deadline for a new bastion: task running, exec agent connected, bastiond answering",
		field: func(s *Settings) any { return &s.StartTimeout },
		check: positive,
	},
	{
		Key: "grant_command", Group: GroupGrant, Value: "COMMAND", Default: "/bastiond grant", Trust: Personal,
		Help:  "command line that ECS Exec runs in the container to hand over a grant; the grant is its last word",
		field: func(s *Settings) any { return &s.GrantCommand },
		check: notEmpty,
	},
	{
		Key: "grant_lifetime", Group: GroupGrant, Value: "DURATION", Default: "1h", Trust: Project,
		Help:  "how long the bastion accepts the ephemeral key; the agent renews a grant in use",
		field: func(s *Settings) any { return &s.GrantLifetime },
		check: between(time.Minute, 12*time.Hour),
	},
	{
		Key: "permit", Group: GroupGrant, Value: "HOST:PORT,...", Trust: Project,
		Help: "destinations that grants are narrowed to; empty: all that the bastion allows. Without the agent, " +
			"forward and proxy to a host request only their own destinations",
		field: func(s *Settings) any { return &s.Permit },
	},
	{
		Key: "sessions", Group: GroupLink, Value: "NUMBER", Default: "8", Trust: Project,
		Help: "most SSM sessions of one link; a link starts with one, adds more while they make it faster, and " +
			"ends unused ones",
		field: func(s *Settings) any { return &s.Sessions },
		check: intBetween(1, 16),
	},
	{
		Key: "session_max_age", Group: GroupLink, Value: "DURATION", Default: "50m", Trust: Project,
		Help: "age at which the link replaces a session, unseen by its connections; AWS closes a session's " +
			"websocket after about an hour",
		field: func(s *Settings) any { return &s.SessionMaxAge },
		check: between(time.Minute, 24*time.Hour),
	},
	{
		Key: "session_document", Group: GroupLink, Value: "auto|NAME", Default: "auto", Trust: Project,
		Help: "SSM document of the sessions: AWS-StartSSHSession or AWS-StartPortForwardingSession; auto: the " +
			"first, or the second on ECS tasks if AWS refuses the first",
		field: func(s *Settings) any { return &s.SessionDocument },
		check: oneOf("auto", "AWS-StartSSHSession", "AWS-StartPortForwardingSession"),
	},
	{
		Key: "linger", Group: GroupLink, Value: "DURATION", Default: "30m", Trust: Project,
		Help: "how long a link and its connections wait without a session to the bastion, for example during " +
			"sleep, a network outage or expired credentials",
		field: func(s *Settings) any { return &s.Linger },
		check: between(time.Second, 24*time.Hour),
	},
	{
		Key: "connect_timeout", Group: GroupLink, Value: "DURATION", Default: "30s", Trust: Project,
		Help:  "deadline of one attempt to connect to a running bastion",
		field: func(s *Settings) any { return &s.ConnectTimeout },
		check: positive,
	},
	{
		Key: "reconnect_timeout", Group: GroupLink, Value: "DURATION", Default: "30m", Trust: Project,
		Help:  "how long the link retries before the command gives up with exit code 8",
		field: func(s *Settings) any { return &s.ReconnectTimeout },
		check: positive,
	},
	{
		Key: "reconnect_min", Group: GroupLink, Value: "DURATION", Default: "500ms", Trust: Project,
		Help:  "backoff before the second attempt to reconnect; it doubles, with jitter, up to reconnect_max",
		field: func(s *Settings) any { return &s.ReconnectMin },
		check: positive,
	},
	{
		Key: "reconnect_max", Group: GroupLink, Value: "DURATION", Default: "30s", Trust: Project,
		Help:  "longest backoff between attempts to reconnect",
		field: func(s *Settings) any { return &s.ReconnectMax },
		check: positive,
	},
	{
		Key: "keepalive", Group: GroupLink, Value: "DURATION", Default: "15s", Trust: Project,
		Help:  "interval of the probes that detect a dead SSH connection over one session (to an OpenSSH server)",
		field: func(s *Settings) any { return &s.Keepalive },
		check: positive,
	},
	{
		Key: "hold_max", Group: GroupLink, Value: "NUMBER", Default: "256", Trust: Project,
		Help:  "most connections of a forward that wait for a link that is down; further ones are closed at once",
		field: func(s *Settings) any { return &s.HoldMax },
		check: intBetween(0, 65535),
	},
	{
		Key: "hold_timeout", Group: GroupLink, Value: "DURATION", Default: "1m", Trust: Project,
		Help:  "how long a connection waits for a link that is down",
		field: func(s *Settings) any { return &s.HoldTimeout },
		check: positive,
	},
	{
		Key: "allow_remote", Group: GroupLink, Default: "false", Trust: Personal,
		Help: "let forward and socks listen on addresses that other machines reach; every client that reaches them " +
			"uses the tunnel",
		field: func(s *Settings) any { return &s.AllowRemote },
	},
	{
		Key: "proxy_domains", Group: GroupProxy, Value: "DOMAIN,...", Default: "internal", Trust: Project,
		Help: "names that the PAC file of socks and browser sends through the bastion: corp.internal means that " +
			"name and all below it, *.corp.internal only those below",
		field: func(s *Settings) any { return &s.ProxyDomains },
		check: each(Domain),
	},
	{
		Key: "proxy_cidrs", Group: GroupProxy, Value: "CIDR,...", Trust: Project,
		Help: "networks whose addresses the PAC file sends through the bastion, if a URL has an address; it never " +
			"resolves names",
		field: func(s *Settings) any { return &s.ProxyCIDRs },
		check: each(CIDR),
	},
	{
		Key: "proxy_auth_file", Group: GroupProxy, Value: "FILE", Trust: Personal,
		Help: "file with USER:PASSWORD, readable only by its owner, that clients of socks must send; by default " +
			"they need no password",
		field: func(s *Settings) any { return &s.ProxyAuthFile },
		path:  func(string) bool { return true },
	},
	{
		Key: "browser", Group: GroupProxy, Value: "NAME|PATH", Trust: Personal,
		Help: "browser for bastion browser: chromium, chrome, edge, brave, firefox or a program; " +
			"by default the first installed one",
		field: func(s *Settings) any { return &s.Browser },
		path:  func(v string) bool { return strings.ContainsAny(v, "/\\") },
	},
	{
		Key: "hosts", Group: GroupLink, Default: "false", Trust: Personal,
		Help: "give each target of forward and exec its own address in 127.0.0.0/8, with the target's port, and " +
			"its name in hosts_file while they run",
		field: func(s *Settings) any { return &s.Hosts },
	},
	{
		Key: "tls_ca", Group: GroupLink, Value: "FILE", Trust: Personal,
		Help: "CA bundle that clients use to verify the database's certificate, in what exec sets and url prints; " +
			"for RDS, global-bundle.pem",
		field: func(s *Settings) any { return &s.TLSCA },
		path:  func(string) bool { return true },
	},
	{
		Key: "redis_cluster", Group: GroupLink, Value: "auto|follow|terminate|off", Default: "auto", Trust: Project,
		Help: "how clients reach the nodes of a Redis or Valkey cluster: follow rewrites its answers, terminate " +
			"also adds TLS, off does neither; auto: follow for clusters without TLS",
		field: func(s *Settings) any { return &s.RedisCluster },
		check: oneOf("auto", "follow", "terminate", "off"),
	},
	{
		Key: "target", Group: GroupSSHD, Value: "TARGET", Trust: Personal,
		Help: "SSM target of a running OpenSSH server, instead of a task with bastiond: i-..., mi-... or " +
			"ecs:<cluster>_<task id>_<runtime id>",
		field: func(s *Settings) any { return &s.Target },
		check: ssmTarget,
	},
	{
		Key: "ssh_user", Group: GroupSSHD, Value: "USER", Default: "ec2-user", Trust: Personal,
		Help:  "user to sign in as",
		field: func(s *Settings) any { return &s.SSHUser },
		check: notEmpty,
	},
	{
		Key: "ssh_port", Group: GroupSSHD, Value: "PORT", Default: "22", Trust: Personal,
		Help:  "port of the OpenSSH server on the target",
		field: func(s *Settings) any { return &s.SSHPort },
		check: intBetween(1, 65535),
	},
	{
		Key: "ssh_host_key", Group: GroupSSHD, Value: "KEY|FILE", Trust: Personal,
		Help: "host key of the OpenSSH server, required with target: the key (\"ssh-ed25519 AAAA...\") or a " +
			"known_hosts file with an entry for the target",
		field: func(s *Settings) any { return &s.SSHHostKey },
		path:  func(v string) bool { return !IsPublicKey(v) },
	},
	{
		Key: "ssh_identity", Group: GroupSSHD, Value: "agent|FILE", Default: "agent", Trust: Personal,
		Help:  "the user's key: the SSH agent of SSH_AUTH_SOCK, or a private key file",
		field: func(s *Settings) any { return &s.SSHIdentity },
		check: notEmpty,
		path:  func(v string) bool { return v != "agent" },
	},
	{
		Key: "no_agent", Group: GroupLocal, Default: "false", Trust: Project,
		Help:  "work without the background agent: the command has its own link, which ends with it",
		field: func(s *Settings) any { return &s.NoAgent },
	},
	{
		Key: "agent_idle", Group: GroupLocal, Value: "DURATION", Default: "10m", Trust: Personal,
		Help:  "how long the agent keeps an unused link, and itself without work; the value at the agent's start counts",
		field: func(s *Settings) any { return &s.AgentIdle },
		check: between(time.Second, 24*time.Hour),
	},
	{
		Key: "hosts_file", Group: GroupLocal, Value: "FILE", Trust: Personal,
		Help: "hosts file that hosts changes, in a block that it removes again; by default the system's " +
			"(/etc/hosts), which needs the rights to write it",
		field: func(s *Settings) any { return &s.HostsFile },
		path:  func(string) bool { return true },
	},
	{
		Key: "runtime_dir", Group: GroupLocal, Value: "DIR", Trust: Personal,
		Help: "directory of the sockets of the agent and for OpenSSH (mode 0700); by default bastion in " +
			"XDG_RUNTIME_DIR or in the user's cache directory",
		field: func(s *Settings) any { return &s.RuntimeDir },
		path:  func(string) bool { return true },
	},
	{
		Key: "state_dir", Group: GroupLocal, Value: "DIR", Trust: Personal,
		Help: "directory of the agent's log and of the list of detached forwards (mode 0700); by default bastion " +
			"in XDG_STATE_HOME or in the user's application data",
		field: func(s *Settings) any { return &s.StateDir },
		path:  func(string) bool { return true },
	},
	{
		Key: "remember_host_keys", Group: GroupLocal, Default: "true", Trust: Personal,
		Help: "keep a task's host key, received through ECS Exec, in runtime_dir; later commands connect without " +
			"waiting for ECS Exec",
		field: func(s *Settings) any { return &s.RememberHostKeys },
	},
	{
		Key: "metrics_listen", Group: GroupLocal, Value: "ADDRESS:PORT", Trust: Personal,
		Help: "loopback address at which the agent serves /metrics, /livez and /readyz; empty: only on its socket. " +
			"Needs metrics_token_file; the value at the agent's start counts",
		field: func(s *Settings) any { return &s.MetricsListen },
		check: loopback,
	},
	{
		Key: "metrics_token_file", Group: GroupLocal, Value: "FILE", Trust: Personal,
		Help: "file with the bearer token for /metrics, readable only by you, because other users of this machine " +
			"reach loopback addresses too",
		field: func(s *Settings) any { return &s.MetricsTokenFile },
		path:  func(string) bool { return true },
	},
	{
		Key: "price_vcpu_hour", Group: GroupLocal, Value: "USD", Default: "0.04048", Trust: Project,
		Help:  "price of a vCPU for an hour, for the cost estimate; by default Fargate's for Linux/x86 in us-east-1",
		field: func(s *Settings) any { return &s.PriceVCPUHour },
		check: price,
	},
	{
		Key: "price_gb_hour", Group: GroupLocal, Value: "USD", Default: "0.004445", Trust: Project,
		Help:  "price of a gigabyte of memory for an hour, for the cost estimate",
		field: func(s *Settings) any { return &s.PriceGBHour },
		check: price,
	},
	{
		Key: "output", Short: "o", Group: GroupOutput, Value: "text|json", Default: "text", Trust: Project,
		Help:  "format of standard output",
		field: func(s *Settings) any { return &s.Output },
		check: oneOf("text", "json"),
	},
	{
		Key: "quiet", Short: "q", Group: GroupOutput, Default: "false", Trust: Project,
		Help:  "print errors only on standard error, without progress",
		field: func(s *Settings) any { return &s.Quiet },
	},
	{
		Key: "verbose", Short: "v", Group: GroupOutput, Default: "false", Trust: Project,
		Help:  "log each step on standard error",
		field: func(s *Settings) any { return &s.Verbose },
	},
}

// set gives the field of s the value that text says.
func (s *Setting) set(dst *Settings, text string) error {
	if s.check != nil {
		if err := s.check(text); err != nil {
			return err
		}
	}
	switch p := s.field(dst).(type) {
	case *string:
		*p = text
	case *bool:
		v, err := strconv.ParseBool(strings.ToLower(text))
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		*p = v
	case *int:
		v, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*p = v
	case *float64:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		*p = v
	case *time.Duration:
		v, err := duration.Parse(text)
		if err != nil {
			return err
		}
		*p = v
	case *[]string:
		v, err := splitList(text)
		if err != nil {
			return err
		}
		*p = v
	case *map[string]string:
		v, err := splitMap(text)
		if err != nil {
			return err
		}
		*p = v
	default:
		panic("config: no rule for the type of " + s.Key)
	}
	return nil
}

// text is the inverse of set.
func (s *Setting) text(src *Settings) string {
	switch p := s.field(src).(type) {
	case *string:
		return *p
	case *bool:
		return strconv.FormatBool(*p)
	case *int:
		return strconv.Itoa(*p)
	case *float64:
		return strconv.FormatFloat(*p, 'f', -1, 64)
	case *time.Duration:
		return p.String()
	case *[]string:
		return strings.Join(*p, ",")
	case *map[string]string:
		return joinMap(*p)
	}
	panic("config: no rule for the type of " + s.Key)
}

// Texts returns the settings by key, in the form that flags take, with paths that hold in every working directory. FromTexts is
// the inverse. The targets of the file and its path are not among them.
func (s Settings) Texts() map[string]string {
	out := make(map[string]string, len(table))
	for _, setting := range table {
		text := setting.text(&s)
		if setting.path != nil && text != "" && setting.path(text) {
			if abs, err := filepath.Abs(text); err == nil {
				text = abs
			}
		}
		out[setting.Key] = text
	}
	return out
}

// FromTexts returns the settings that texts say; those that it leaves out have their defaults. Its errors are of kind fail.Usage.
func FromTexts(texts map[string]string) (Settings, error) {
	var s Settings
	for key := range texts {
		if Lookup(key) == nil {
			return s, fail.New(fail.Usage, "", fmt.Errorf("unknown setting %q", key), "see docs/configuration.md")
		}
	}
	for _, setting := range table {
		text, given := texts[setting.Key]
		if !given {
			text = setting.Default
		}
		if text == "" {
			if given && setting.Default != "" {
				if err := setting.set(&s, ""); err != nil {
					return s, fail.New(fail.Usage, setting.Key, err, "see docs/configuration.md")
				}
			}
			continue
		}
		if err := setting.set(&s, text); err != nil {
			return s, fail.New(fail.Usage, setting.Key, err, "see docs/configuration.md")
		}
	}
	if err := s.validate(); err != nil {
		return s, fail.New(fail.Usage, "", err, "see docs/configuration.md")
	}
	return s, nil
}

func splitList(text string) ([]string, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var out []string
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			return nil, fmt.Errorf("%q has an empty item", text)
		}
		out = append(out, item)
	}
	return out, nil
}

func splitMap(text string) (map[string]string, error) {
	items, err := splitList(text)
	if err != nil || items == nil {
		return nil, err
	}
	out := make(map[string]string, len(items))
	for _, item := range items {
		k, v, ok := strings.Cut(item, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if !ok || k == "" {
			return nil, fmt.Errorf("%q is not KEY=VALUE", item)
		}
		if _, dup := out[k]; dup {
			return nil, fmt.Errorf("duplicate key %q", k)
		}
		out[k] = v
	}
	return out, nil
}

// joinMap is the inverse of splitMap.
func joinMap(m map[string]string) string {
	items := make([]string, 0, len(m))
	for k, v := range m {
		items = append(items, k+"="+v)
	}
	sort.Strings(items)
	return strings.Join(items, ",")
}

// region is the form of a region's name: it becomes a part of the host names to which signed requests are sent.
var region = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func awsRegion(text string) error {
	if !region.MatchString(text) {
		return fmt.Errorf("%q is not the name of a region, such as eu-central-1", text)
	}
	return nil
}

func notEmpty(text string) error {
	if strings.TrimSpace(text) == "" {
		return errors.New("must not be empty")
	}
	return nil
}

func positive(text string) error {
	d, err := duration.Parse(text)
	if err != nil {
		return err
	}
	if d <= 0 {
		return fmt.Errorf("%s is not positive", text)
	}
	return nil
}

func price(text string) error {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || v < 0 || v > 1000 {
		return fmt.Errorf("%q is not a price from 0 to 1000, such as 0.04048", text)
	}
	return nil
}

// loopback takes an address and port that only this machine reaches. A name might be another's tomorrow.
func loopback(text string) error {
	addr, err := netip.ParseAddrPort(text)
	if err != nil || !addr.Addr().IsLoopback() {
		return fmt.Errorf("%q is not a loopback address with a port, such as 127.0.0.1:9464", text)
	}
	return nil
}

func between(low, high time.Duration) func(string) error {
	return func(text string) error {
		d, err := duration.Parse(text)
		if err != nil {
			return err
		}
		if d < low || d > high {
			return fmt.Errorf("%s is not between %s and %s", text, duration.String(low), duration.String(high))
		}
		return nil
	}
}

func intBetween(low, high int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		if n < low || n > high {
			return fmt.Errorf("%d is not between %d and %d", n, low, high)
		}
		return nil
	}
}

func oneOf(words ...string) func(string) error {
	return func(text string) error {
		for _, w := range words {
			if text == w {
				return nil
			}
		}
		return fmt.Errorf("%q is not one of: %s", text, strings.Join(words, ", "))
	}
}

func ssmTarget(text string) error {
	switch {
	case strings.HasPrefix(text, "i-") && len(text) > 2, strings.HasPrefix(text, "mi-") && len(text) > 3:
		return nil
	case strings.HasPrefix(text, "ecs:"):
		if strings.Count(text, "_") >= 2 {
			return nil
		}
		return fmt.Errorf("%q is not ecs:<cluster>_<task id>_<runtime id>", text)
	}
	return fmt.Errorf("%q is not an SSM target: i-..., mi-... or ecs:<cluster>_<task id>_<runtime id>", text)
}

// IsPublicKey reports whether text looks like a public key in authorized_keys form rather than a path.
func IsPublicKey(text string) bool {
	kind, rest, ok := strings.Cut(strings.TrimSpace(text), " ")
	if !ok || rest == "" {
		return false
	}
	for _, prefix := range []string{"ssh-", "ecdsa-", "sk-"} {
		if strings.HasPrefix(kind, prefix) {
			return true
		}
	}
	return false
}

// validate checks what concerns more than one setting.
func (s *Settings) validate() error {
	if s.ReconnectMin > s.ReconnectMax {
		return fmt.Errorf("reconnect_min (%s) is more than reconnect_max (%s)", s.ReconnectMin, s.ReconnectMax)
	}
	if s.Target != "" && s.SSHHostKey == "" {
		return errors.New("target needs ssh_host_key: the host key of the OpenSSH server, which is never trusted on first use")
	}
	if s.MetricsListen != "" && s.MetricsTokenFile == "" {
		return errors.New("metrics_listen needs metrics_token_file: other users of this machine reach loopback addresses too")
	}
	if err := s.checkFargate(); err != nil {
		return err
	}
	for _, p := range s.Permit {
		if _, port, err := net.SplitHostPort(p); err != nil || port == "" {
			return fmt.Errorf("permit: %q is not HOST:PORT", p)
		}
	}
	return nil
}
