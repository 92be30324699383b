package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// usesAgent reports whether a command goes through the agent, and says why not. One whose credentials come from where only its own
// process finds them cannot.
func (a *app) usesAgent(ctx context.Context, s config.Settings) bool {
	if s.Local.NoAgent {
		return false
	}
	lack := lackOfAgent(ctx, s)
	if lack == nil {
		return true
	}
	a.noteAlone(s, lack.what)
	return false
}

// agentLack is what keeps the agent from acting for a command.
type agentLack struct {
	what string // "cannot ..."
	next string // how the command can do without it
}

// lackOfAgent returns what keeps the agent from acting for this command, as far as the command knows; nil if nothing does.
func lackOfAgent(ctx context.Context, s config.Settings) *agentLack {
	if names := strings.Join(awssdk.UnsupportedEnv(ctx, os.Environ(), s.AWS.Profile), ", "); names != "" {
		return &agentLack{"cannot use " + names + " of this command", "sign in by a profile that does without " + names}
	}
	if device := awssdk.MFADevice(ctx, s.AWS.Profile); device != "" && s.AWS.MFACommand == "" {
		return &agentLack{
			"cannot ask for the code of the MFA device " + device,
			"set mfa_command to a program that prints the code, or sign in with temporary credentials (aws sts get-session-token)",
		}
	}
	return nil
}

// goesOnAlone reports whether a command goes on without the agent after a failure whose reason lies in the agent's process. It says
// so to the user.
func (a *app) goesOnAlone(ctx context.Context, s config.Settings, err error) bool {
	if other, ok := errors.AsType[*api.OtherProcessError](err); ok {
		a.noteAlone(s, "was started with another "+strings.Join(other.Variables, ", ")+"; bastion agent stop ends it")
		return true
	}
	profile := a.programInAgent(ctx, s, err)
	if profile != "" {
		a.noteAlone(s, "gets no credentials from the credential_process of the profile "+profile+
			": in the agent it has not the variables of this command")
	}
	return profile != ""
}

// programInAgent returns the profile whose credential_process may have failed for want of this command's variables.
func (a *app) programInAgent(ctx context.Context, s config.Settings, err error) (profile string) {
	if fail.KindOf(err) != fail.Credentials || ctx.Err() != nil {
		return ""
	}
	return awssdk.CredentialProgram(ctx, s.AWS.Profile)
}

func (a *app) noteAlone(s config.Settings, why string) {
	a.Note(s, "going on without the agent, which %s", why)
}
