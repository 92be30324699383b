// Package config has every setting of the command line. One table gives each its flag, environment variable and key in the
// configuration file. Load merges the three sources. The package knows neither AWS nor SSH.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Settings are the merged settings; docs/configuration.md describes each.
type Settings struct {
	AWS     AWS
	Bastion Bastion
	Grant   Grant
	Link    Link
	Forward Forward
	Proxy   Proxy
	SSHD    SSHD
	Local   Local
	Output  Output

	// Environment is the name of the environment in force; "": none.
	Environment string

	// The following have no flag, and are not among the texts.

	// Environments are the names of the file's environments, sorted.
	Environments []string
	// Colour is that of the environment in force: a name or #rrggbb.
	Colour string
	// Confirm says that a command asks before it opens or starts something in the environment.
	Confirm bool
	// Targets are the named targets of the file and of the environment.
	Targets map[string]Target
	// File is the configuration file that was read, or "". That of a shared configuration begins with SharedPath.
	File string
	// Unread is why the shared configuration could not be read; nil if it was, if there is none, or if a file counts.
	Unread error
}

// AWS has the settings of the account and its API calls.
type AWS struct {
	Profile string
	Region  string
	Timeout time.Duration // bounds each call

	MFACommand string // program that prints MFA codes; "": the terminal
}

// Bastion has the settings of bastiond's task. TaskSize combines Size, CPU and Memory.
type Bastion struct {
	Cluster           string
	TaskDefinition    string
	SharedService     string
	AuditLogGroup     string
	Container         string
	Subnets           []string
	SubnetTags        map[string]string
	SecurityGroups    []string
	SecurityGroupTags map[string]string
	AssignPublicIP    bool
	Size              string
	CPU               int
	Memory            int
	Capacity          string // CapacityFargate or CapacitySpot
	Tags              map[string]string
	StartTimeout      time.Duration
}

// The kinds of capacity for a new task.
const (
	CapacityFargate = "fargate"
	CapacitySpot    = "spot"
)

// Grant has the settings of grants: command, lifetime and destinations.
type Grant struct {
	Command  string
	Lifetime time.Duration
	Permit   []string
}

// Link has the settings of a link: its sessions, its retries, and the waiting of connections.
type Link struct {
	Sessions         int
	SessionMaxAge    time.Duration
	SessionDocument  string
	Linger           time.Duration
	ConnectTimeout   time.Duration
	ReconnectTimeout time.Duration
	ReconnectMin     time.Duration
	ReconnectMax     time.Duration
	Keepalive        time.Duration
	HoldMax          int
	HoldTimeout      time.Duration
}

// Forward has the settings of forwards and of their clients.
type Forward struct {
	AllowRemote  bool
	Hosts        bool
	TLSCA        string
	RedisCluster string
}

// Proxy has the settings of the proxies for browsers. Domains are in Domain's form.
type Proxy struct {
	Domains  []string
	CIDRs    []netip.Prefix
	AuthFile string
	Browser  string
}

// SSHD has the settings of an OpenSSH server that replaces the bastion task.
type SSHD struct {
	Target   string // empty: use a bastion task
	User     string
	Port     int
	HostKey  string
	Identity string
}

// Local has the settings of this machine: the agent, its files and the cost estimate.
type Local struct {
	NoAgent          bool
	AgentIdle        time.Duration
	HostsFile        string
	RuntimeDir       string
	StateDir         string
	RememberHostKeys bool
	Notify           bool           // desktop notifications
	MetricsListen    netip.AddrPort // zero: only the agent's socket
	MetricsTokenFile string
	PriceVCPUHour    float64 // USD
	PriceGBHour      float64 // USD
}

// Output has the settings of a command's output.
type Output struct {
	Format  string // text or json
	Quiet   bool
	Verbose bool
}

// Target is a named target of the configuration file.
type Target struct {
	Name string
	// Spec is the target: rds:ID, cache:ID or host:port.
	Spec string
	// LocalPort is the port that forward listens on unless the command line gives one; 0: the target's own port.
	LocalPort int
	// Where is its file:line:column, for errors.
	Where string

	own map[string]value // its own environment, profile and region
}

// HasOwn reports whether the target has an environment, a profile or a region of its own. Then Source.Target takes them.
func (t Target) HasOwn() bool { return len(t.own) > 0 }

// Own returns the target's own environment, profile or region; "" without one.
func (t Target) Own(key string) string { return t.own[key].text }

// Texts returns the settings by key, in the text form of flags, with absolute paths. FromTexts is the inverse. What has no flag,
// such as the file's path and targets, is not included.
func (s Settings) Texts() map[string]string {
	out := make(map[string]string, len(table))
	for _, setting := range table {
		text := setting.kind.text(&s)
		if setting.path != nil && text != "" && setting.path(text) {
			if abs, err := filepath.Abs(text); err == nil {
				text = abs
			}
		}
		out[setting.Key] = text
	}
	return out
}

// FromTexts returns the settings in texts; missing ones get their defaults. Its errors are of kind fail.Usage.
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
		if text == "" && setting.Default == "" {
			continue
		}
		if err := setting.kind.set(&s, text); err != nil {
			return s, fail.New(fail.Usage, setting.Key, err, "see docs/configuration.md")
		}
	}
	if err := s.validate(); err != nil {
		return s, fail.New(fail.Usage, "", err, "see docs/configuration.md")
	}
	return s, nil
}

// validate checks relations between settings.
func (s *Settings) validate() error {
	if s.Link.ReconnectMin > s.Link.ReconnectMax {
		return fmt.Errorf("reconnect_min (%s) is more than reconnect_max (%s)", s.Link.ReconnectMin, s.Link.ReconnectMax)
	}
	if s.SSHD.Target != "" && s.SSHD.HostKey == "" {
		return errors.New("target needs ssh_host_key: the host key of the OpenSSH server, which is never trusted on first use")
	}
	if s.Local.MetricsListen.IsValid() && s.Local.MetricsTokenFile == "" {
		return errors.New("metrics_listen needs metrics_token_file: other users of this machine reach loopback addresses too")
	}
	return s.checkFargate()
}
