package invocation

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// UsesAgent reports whether a command goes through the agent, and says why not. One whose credentials come from where only its own
// process finds them cannot.
func (in *Invocation) UsesAgent(ctx context.Context, s config.Settings) bool {
	if s.Local.NoAgent {
		return false
	}
	lack := LackOfAgent(ctx, s)
	if lack == nil {
		return true
	}
	in.noteAlone(s, lack.What)
	return false
}

// AgentLack is what keeps the agent from acting for a command.
type AgentLack struct {
	What string // "cannot ..."
	Next string // how the command can do without it
}

// LackOfAgent returns what keeps the agent from acting for this command, as far as the command knows; nil if nothing does.
func LackOfAgent(ctx context.Context, s config.Settings) *AgentLack {
	if names := strings.Join(awssdk.UnsupportedEnv(ctx, os.Environ(), s.AWS.Profile), ", "); names != "" {
		return &AgentLack{"cannot use " + names + " of this command", "sign in by a profile that does without " + names}
	}
	if device := awssdk.MFADevice(ctx, s.AWS.Profile); device != "" && s.AWS.MFACommand == "" {
		return &AgentLack{
			"cannot ask for the code of the MFA device " + device,
			"set mfa_command to a program that prints the code, or sign in with temporary credentials (aws sts get-session-token)",
		}
	}
	return nil
}

// GoesOnAlone reports whether a command goes on without the agent after a failure whose reason lies in the agent's process. It says
// so to the user.
func (in *Invocation) GoesOnAlone(ctx context.Context, s config.Settings, err error) bool {
	if other, ok := errors.AsType[*api.OtherProcessError](err); ok {
		in.noteAlone(s, "was started with another "+strings.Join(other.Variables, ", ")+"; bastion agent stop ends it")
		return true
	}
	profile := in.ProgramInAgent(ctx, s, err)
	if profile != "" {
		in.noteAlone(s, "gets no credentials from the credential_process of the profile "+profile+
			": in the agent it has not the variables of this command")
	}
	return profile != ""
}

// ProgramInAgent returns the profile whose credential_process may have failed for want of this command's variables.
func (in *Invocation) ProgramInAgent(ctx context.Context, s config.Settings, err error) (profile string) {
	if fail.KindOf(err) != fail.Credentials || ctx.Err() != nil {
		return ""
	}
	return awssdk.CredentialProgram(ctx, s.AWS.Profile)
}

func (in *Invocation) noteAlone(s config.Settings, why string) {
	in.Note(s, "going on without the agent, which %s", why)
}

// ConnectAgent returns a client of the user's agent, which it starts if it does not run.
func (in *Invocation) ConnectAgent(ctx context.Context, s config.Settings) (*api.Client, error) {
	client, version, err := launch.Connect(ctx, s)
	if err == nil && version != in.Version {
		in.Note(s, "the agent is of version %s, this command of %s; bastion agent stop ends the old one", version, in.Version)
	}
	return client, err
}

// AskAgent asks the agent, which it starts if it does not run. One that ends just then, because it had nothing to do, has done nothing:
// the next one is asked.
func (in *Invocation) AskAgent(ctx context.Context, s config.Settings, ask func(*api.Client) error) error {
	const tries = 3
	for n := 1; ; n++ {
		client, err := in.ConnectAgent(ctx, s)
		if err != nil {
			return err
		}
		if err := ask(client); n == tries || !errors.Is(err, api.ErrNotRunning) {
			return err
		}
	}
}
