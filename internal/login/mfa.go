package login

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
)

const (
	// mfaPatience is how long the program may take: a security key waits for a touch.
	mfaPatience = time.Minute
	// mfaEnd is how long the program may take to end after that.
	mfaEnd = 2 * time.Second

	mfaDigits = 6
	maxOutput = 4 << 10 // bytes of the program's output that count
)

// nextMFA is the hint after a program that gave no code.
const nextMFA = "run the program in a terminal; mfa_command must print the six digits and nothing else"

// CodeBy returns a function that gets the code of an MFA device from a program. command is a command line without a shell: words,
// in which quotes keep spaces. The program's variables have the device in BASTION_MFA_DEVICE.
func CodeBy(ctx context.Context, command string) func(device string) (string, error) {
	return func(device string) (string, error) {
		op := "get the code of the MFA device " + device
		words, err := Words(command)
		if err != nil {
			return "", fail.New(fail.Usage, op, err, "correct mfa_command")
		}
		bounded, cancel := context.WithTimeout(ctx, mfaPatience)
		defer cancel()
		cmd := exec.CommandContext(bounded, words[0], words[1:]...) // #nosec G204 -- the user's own setting
		cmd.Env = append(os.Environ(), "BASTION_MFA_DEVICE="+device)
		cmd.WaitDelay = mfaEnd
		var out, stderr limited
		cmd.Stdout, cmd.Stderr = &out, &stderr
		err = cmd.Run()
		switch {
		case bounded.Err() != nil && ctx.Err() == nil:
			return "", fail.New(fail.Timeout, op, fmt.Errorf("%s gave none within %s", words[0], mfaPatience), nextMFA)
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case err != nil:
			if text := printable.OneLine(strings.TrimSpace(stderr.String())); text != "" {
				err = fmt.Errorf("%w: %s", err, text)
			}
			return "", fail.New(fail.Credentials, op, fmt.Errorf("%s: %w", words[0], err), nextMFA)
		}
		code := strings.TrimSpace(out.String())
		if len(code) != mfaDigits || strings.Trim(code, "0123456789") != "" {
			return "", fail.New(fail.Credentials, op, fmt.Errorf("%s printed no code of six digits", words[0]), nextMFA)
		}
		return code, nil
	}
}

// limited keeps the first maxOutput bytes that are written to it, and drops the rest.
type limited struct{ kept bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	_, _ = l.kept.Write(p[:min(len(p), maxOutput-l.kept.Len())]) // it never fails
	return len(p), nil
}

func (l *limited) String() string { return l.kept.String() }

// Words splits a command line at its spaces. Single and double quotes keep spaces; nothing else is special, so that a Windows path
// stays as it is and nothing is expanded.
func Words(command string) ([]string, error) {
	var out []string
	var word strings.Builder
	var quote rune
	begun := false
	for _, r := range command {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, begun = r, true
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			if begun {
				out = append(out, word.String())
				word.Reset()
			}
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the command line %q ends within quotes", command)
	}
	if begun {
		out = append(out, word.String())
	}
	if len(out) == 0 || out[0] == "" {
		return nil, errors.New("the command line has no program")
	}
	return out, nil
}
