package invocation

import (
	"context"
	"io"
	"net/http"
	"os"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/process"
)

// Stdio are the standard streams of an invocation.
type Stdio struct {
	In       *os.File
	Out, Err io.Writer
	Signals  *process.Signals // nil: the process takes none
}

// Invocation is one run of the command line.
type Invocation struct {
	Stdio                // for text: characters that do not print never get through, whoever writes them
	Raw     Stdio        // for streams of bytes, and for displays, which sanitize what they show
	Line    *cli.Program // with the settings that are given as options
	Self    string       // the program's path, for what other programs must call
	Version string       // the program's
	Shared  Shared

	Registry http.RoundTripper // to registries of images; nil: the usual one

	written *console.Output // what Out is
	mfa     awssdk.MFA      // what codes have opened
}

// New returns an invocation without a command line. The caller sets Line and Self.
func New(std Stdio, version string) *Invocation {
	in := &Invocation{Stdio: std, Raw: std, Version: version, written: console.NewOutput(printable.NewWriter(std.Out))}
	in.Out, in.Err = in.written, printable.NewWriter(std.Err)
	return in
}

// Run runs the command line. Its error is also that of standard output, which a command need not look at.
func (in *Invocation) Run(ctx context.Context, args []string) error {
	return in.written.Outcome(in.Line.Run(ctx, args))
}
