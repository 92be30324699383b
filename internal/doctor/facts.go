package doctor

import (
	"time"

	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/internal/sshconfig"
	"github.com/bastion-ssm/bastion/targets"
)

// Facts are what the gatherers have found. The checks judge nothing else. A part that was not gathered is zero.
type Facts struct {
	Version     string // of this program
	Settings    config.Settings
	SettingsErr error
	Target      string // as typed; empty: none
	Spec        targets.Spec
	TargetErr   error

	Machine     Machine
	Login       awssdk.Login
	Credentials Credentials
	Reaches     []Reached
	Account     Account
	Running     Running
	Where       Where
}

// Machine is what the gatherer has found on this machine.
type Machine struct {
	RuntimeErr, StateErr error

	Socket   string // path of the agent's
	Agent    api.Info
	State    api.State // of the agent; zero: it has not told
	AgentErr error     // api.ErrNotRunning: no agent
	Stale    bool      // its socket is there, and nobody listens on it

	SSH    sshconfig.Present
	SSHErr error

	HostsFile string
	HostsDead []string // ids of commands that have ended and whose lines are in the hosts file
	HostsErr  error

	Ports []Port
	CAErr error // of tls_ca
}

// Port is a local port that a target would listen on.
type Port struct {
	Number int
	For    string // target
	Err    error  // of an attempt to listen; nil: it is free
	Ours   string // the agent's forward that has it
	By     string // process that has it; empty: unknown
}

// Credentials are what awssdk and STS say.
type Credentials struct {
	LoadErr error // of the credentials; nil: there are some
	// ProfileErr and RegionErr are errors of the configuration, which come before credentials.
	ProfileErr, RegionErr error
	Region                string

	AskErr       error // of GetCallerIdentity
	ARN, Account string
	Skew         time.Duration // what AWS's clock is ahead
	SkewKnown    bool
}

// Reached is a way to one endpoint of AWS, step by step.
type Reached struct {
	Service, Host string // with its port
	Secure        bool   // by TLS
	Proxy         string // host and port of the proxy on the way; empty: none
	ProxyErr      error
	DNSErr        error
	TCPErr        error
	TLSErr        error
	Issuer        string // of a certificate that is not trusted
	DNS, TCP, TLS time.Duration

	Upgrade    bool // the websocket's request was tried
	UpgradeErr error
	Status     int       // HTTP status of its answer
	Date       time.Time // of its answer
	At         time.Time // when it came
}

// Account is the bastion's set-up in AWS. Each answer has its error beside it.
type Account struct {
	Asked bool

	Cluster    *ecstypes.Cluster // nil: there is none of the name
	ClusterErr error

	Definition    *ecstypes.TaskDefinition
	DefinitionErr error

	TaskRole, ExecutionRole Simulated
	TaskKey                 Simulated // kms:Decrypt of the task role
	KeyErr                  error     // of a dry run of GenerateDataKey
	KeyTried                bool

	Subnets        []ec2types.Subnet
	SubnetsErr     error
	Groups         []ec2types.SecurityGroup
	GroupsErr      error
	Tables         []ec2types.RouteTable
	TablesErr      error
	Endpoints      []ec2types.VpcEndpoint
	EndpointsErr   error
	EndpointGroups []ec2types.SecurityGroup
	Preferences    Preferences
	PreferencesErr error
	LastStopped    *bastions.Bastion // the newest of the owner's stopped tasks
}

// Simulated is what IAM's simulator says about a role.
type Simulated struct {
	Asked   bool
	Role    string // ARN
	Err     error
	Refused []Refused
}

// Refused is an action that the simulator refuses.
type Refused struct {
	Action, Resource string
	Explicit         bool
	By               string // kind of policy, in IAM's words; empty: the role's own policies lack it
}

// Preferences are Session Manager's for the account and region.
type Preferences struct {
	None bool          // nobody has set any
	Most time.Duration // 0: no limit
}

// Running is the owner's bastions, and a connection to the best of them.
type Running struct {
	Asked      bool
	All        []bastions.Bastion
	Err        error
	Found      []bastions.Finding // about an exec agent that is not ready
	Measured   *access.Measured   // nil: not connected
	ConnectErr error              // of the connection
}

// Where is the target as AWS shows it.
type Where struct {
	Endpoint targets.Endpoint
	Err      error
	Thing    targets.Thing
	Rules    []ec2types.SecurityGroup // of the target
	RulesErr error

	Places  report.Places // zero: not looked up
	Serving string        // environment whose bastion is where the target is, if that of the settings is elsewhere; "": none

	Dialed  bool
	DialErr error
}
