// Package config holds every setting of the command line: one table gives each its flag, its environment variable and its
// key in the configuration file, and Load merges the three. It knows neither AWS nor SSH.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Settings are the merged settings. docs/configuration.md says what each means.
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

	// Targets are the named targets of the file; they have no flag.
	Targets map[string]Target
	// File is the configuration file that was read, or "".
	File string
}

// AWS are the settings of the account and of the calls to it.
type AWS struct {
	Profile string
	Region  string
	Timeout time.Duration // bounds each call
}

// Bastion are the settings of the task in which bastiond runs. Size, CPU and Memory are read by TaskSize.
type Bastion struct {
	Cluster           string
	TaskDefinition    string
	Container         string
	Subnets           []string
	SubnetTags        map[string]string
	SecurityGroups    []string
	SecurityGroupTags map[string]string
	AssignPublicIP    bool
	Size              string
	CPU               int
	Memory            int
	Tags              map[string]string
	StartTimeout      time.Duration
}

// Grant are the settings of what the bastion is told to permit, and for how long.
type Grant struct {
	Command  string
	Lifetime time.Duration
	Permit   []string
}

// Link are the settings of a link: its sessions, and what becomes of connections while it is down.
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

// Forward are the settings of forwards, and of what clients are told of them.
type Forward struct {
	AllowRemote  bool
	Hosts        bool
	TLSCA        string
	RedisCluster string
}

// Proxy are the settings of the proxies that browsers use. Domains are as Domain returns them.
type Proxy struct {
	Domains  []string
	CIDRs    []netip.Prefix
	AuthFile string
	Browser  string
}

// SSHD are the settings of an OpenSSH server that is used in place of a bastion task.
type SSHD struct {
	Target   string // empty: a bastion task is used
	User     string
	Port     int
	HostKey  string
	Identity string
}

// Local are the settings of this machine: the agent, its files and what they are read by.
type Local struct {
	NoAgent          bool
	AgentIdle        time.Duration
	HostsFile        string
	RuntimeDir       string
	StateDir         string
	RememberHostKeys bool
	MetricsListen    netip.AddrPort // the zero value: nowhere
	MetricsTokenFile string
	PriceVCPUHour    float64 // USD
	PriceGBHour      float64 // USD
}

// Output are the settings of what a command prints.
type Output struct {
	Format  string // text or json
	Quiet   bool
	Verbose bool
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

// Texts returns the settings by key, in the form that flags take, with paths that hold in every working directory. FromTexts is
// the inverse. The targets of the file and its path are not among them.
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
				if err := setting.kind.set(&s, ""); err != nil {
					return s, fail.New(fail.Usage, setting.Key, err, "see docs/configuration.md")
				}
			}
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

// validate checks what concerns more than one setting.
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
