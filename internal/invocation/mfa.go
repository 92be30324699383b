package invocation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	ssologin "github.com/bastion-ssm/bastion/internal/login"
)

// MFA returns the source of MFA codes: the program of mfa_command, or the terminal, below the progress that is shown.
func (in *Invocation) MFA(ctx context.Context, s config.Settings, p *console.Progress) *awssdk.MFA {
	in.mfa.Ask = func(device string) (string, error) {
		p.Idle()
		return askMFA(device)
	}
	if s.AWS.MFACommand != "" {
		in.mfa.Ask = ssologin.CodeBy(context.WithoutCancel(ctx), s.AWS.MFACommand)
	}
	return &in.mfa
}

// askMFA asks for a code at the terminal, whatever the standard streams are.
func askMFA(device string) (string, error) {
	from, to, err := openTerminal()
	if err != nil {
		return "", fail.New(fail.Credentials, "", fmt.Errorf("the role needs a code of the MFA device %s, and there is no terminal to ask at: %w",
			device, err), "run the command in a terminal, set mfa_command, or sign in with temporary credentials (aws sts get-session-token)")
	}
	defer func() { _ = errors.Join(from.Close(), to.Close()) }()
	if err := console.Printf(to, "MFA code of %s: ", device); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(from).ReadString('\n')
	code := strings.TrimSpace(line)
	if code == "" {
		return "", fail.New(fail.Credentials, "", errors.Join(fmt.Errorf("no code of the MFA device %s was given", device), err),
			"try again with the code that the device shows")
	}
	return code, nil
}

// openTerminal opens the terminal of this process.
func openTerminal() (in, out *os.File, err error) {
	from, to := "/dev/tty", "/dev/tty"
	if runtime.GOOS == "windows" {
		from, to = "CONIN$", "CONOUT$"
	}
	if in, err = os.OpenFile(from, os.O_RDWR, 0); err != nil {
		return nil, nil, err
	}
	if out, err = os.OpenFile(to, os.O_RDWR, 0); err != nil {
		_ = in.Close()
		return nil, nil, err
	}
	return in, out, nil
}
