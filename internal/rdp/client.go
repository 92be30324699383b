package rdp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Client is an installed RDP client.
type Client struct {
	Program string
	args    func(file string, password bool) []string
	stdin   bool // takes the password from standard input
}

// TakesPassword reports whether the client takes the password from standard input.
func (c *Client) TakesPassword() bool { return c.stdin }

// freeRDPs are FreeRDP's clients by the names that distributions give them, in the order of preference.
var freeRDPs = []string{"xfreerdp3", "xfreerdp", "sdl-freerdp3", "sdl-freerdp", "wlfreerdp3", "wlfreerdp"}

// System is the part of the system that Find uses.
type System struct {
	goos string
	look func(string) (string, error) // as exec.LookPath
}

// ThisSystem returns the System of this process.
func ThisSystem() System { return System{runtime.GOOS, exec.LookPath} }

// Find returns the system's RDP client.
func Find(sys System) (*Client, error) {
	switch sys.goos {
	case "windows":
		if path, err := sys.look("mstsc"); err == nil {
			return &Client{Program: path, args: func(file string, _ bool) []string { return []string{file} }}, nil
		}
	case "darwin":
		if path, err := sys.look("open"); err == nil { // what .rdp files open with: the Windows App
			return &Client{Program: path, args: func(file string, _ bool) []string { return []string{"-W", file} }}, nil
		}
	}
	for _, name := range freeRDPs {
		if path, err := sys.look(name); err == nil {
			return &Client{Program: path, stdin: true, args: freeRDPArgs}, nil
		}
	}
	return nil, fail.New(fail.Other, "", errors.New("no RDP client is installed where one is looked for"),
		"install FreeRDP (xfreerdp), or write a file for another client: --file desktop.rdp")
}

// freeRDPArgs returns FreeRDP's options. With the password on standard input it cannot ask about the certificate there. The instance has
// made the certificate itself, so there is nothing to check it against; CredSSP binds the sign-in to it.
func freeRDPArgs(file string, password bool) []string {
	if !password {
		return []string{file}
	}
	return []string{file, "/from-stdin:force", "/cert:ignore"}
}

const clientEnd = 10 * time.Second // for a client to end after SIGTERM

// Run runs the client until it ends. When ctx ends, Run ends the client. out gets its messages. With a password in stdin the client
// gets that in place of this process's input.
func (c *Client) Run(ctx context.Context, file, password string, options []string, out io.Writer) error {
	withPassword := c.stdin && password != ""
	// #nosec G204 -- the user's client
	cmd := exec.CommandContext(ctx, c.Program, append(c.args(file, withPassword), options...)...)
	cmd.Env = withoutSecrets(os.Environ())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, out
	if withPassword {
		cmd.Stdin = strings.NewReader(password + "\n")
	}
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return cmd.Process.Kill() // Windows lacks SIGTERM
		}
		return nil
	}
	cmd.WaitDelay = clientEnd
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		return nil
	case errors.As(err, new(*exec.ExitError)):
		return fail.New(fail.Other, "run "+c.Program, err, "read its messages above, or write a file for another client: --file desktop.rdp")
	}
	return fail.New(fail.Other, fmt.Sprintf("start %s", c.Program), err, "write a file for another client: --file desktop.rdp")
}

// withoutSecrets returns the environment without the variables of AWS and bastion, which the client does not need.
func withoutSecrets(environ []string) []string {
	var out []string
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "AWS_") && !strings.HasPrefix(kv, "BASTION_") {
			out = append(out, kv)
		}
	}
	return out
}
