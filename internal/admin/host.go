package admin

import (
	"context"
	"io"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
)

// Host is the program that has the commands. All fields must be set.
type Host struct {
	In       *os.File
	Out, Err io.Writer                // for text: characters that do not print do not get through
	Version  string                   // the program's
	Given    map[string]string        // the settings that are options of the command line, by key
	Registry func() http.RoundTripper // to registries of images; its result may be nil: the usual one

	// With returns what runs a command with its settings and arguments.
	With func(Run) func(context.Context, []string) error
	// WithCSV is With for a command that can print CSV.
	WithCSV func(Run) func(context.Context, []string) error
	// LoadAWS returns the AWS configuration of a command that needs no bastion. The caller closes the progress.
	LoadAWS func(context.Context, config.Settings) (aws.Config, *console.Progress, error)
	// Open opens the way to AWS and to bastions, for the command with the given name.
	Open func(ctx context.Context, command string, s config.Settings) (*Session, error)

	PrintJSON func(v any) error
	Document  func(key, text string) error                        // prints a text for programs
	Outcome   func(s config.Settings, v any, text string) error   // prints a sentence, or v as JSON
	Note      func(s config.Settings, format string, args ...any) // says something on Err, unless the command is to be quiet
}

// Run is a command.
type Run = func(context.Context, config.Settings, []string) error

// Session is a way to AWS and to bastions.
type Session struct {
	Access   *access.Access
	Progress *console.Progress
	// Connect makes a connection through a bastion, and closes it.
	Connect func(ctx context.Context, destination string) error
	Close   func()
}

// Commands returns the rows of the table of commands. group is their heading.
func Commands(host Host, group string) []*cli.Command {
	p := &program{Host: host}
	rows := []*cli.Command{
		p.initCommand(), p.planCommand(), p.upgradeCommand(), p.destroyCommand(), p.iamPolicyCommand(), p.auditCommand(), p.gcCommand(),
		p.costCommand(),
	}
	for _, row := range rows {
		row.Group = group
	}
	return rows
}

// program is the host, as the commands use it.
type program struct{ Host }

// The groups of settings that matter to these commands.
var (
	showCommon  = []string{config.GroupAWS, config.GroupOutput}
	showBastion = []string{config.GroupAWS, config.GroupBastion, config.GroupOutput}
)

// callsInTime is how many calls that AWS answers just in time a command makes before it gives up.
const callsInTime = 2
