// Package launch finds, starts and stops the agent, which is one process for each user. It reads what the agent leaves behind: its log,
// why it did not start, and the forwards that come back with it.
package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

const (
	// startWait bounds the start of the agent.
	startWait = 15 * time.Second
	// Poll is the pause between two looks whether another agent has come up, or gone.
	Poll = 50 * time.Millisecond

	maxCrashFile = 1 << 20 // bytes, after which the file is begun anew
)

// Client returns a client of the agent, whether it runs or not.
func Client(s config.Settings) (*api.Client, error) {
	path, err := api.SocketPath(s)
	if err != nil {
		return nil, err
	}
	return api.NewClient(path).ActAs(awssdk.ProcessEnv()), nil
}

// Connect returns a client of the user's agent, which it starts if it does not run. version is the agent's.
func Connect(ctx context.Context, s config.Settings) (_ *api.Client, version string, _ error) {
	client, err := Client(s)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startWait, fail.New(fail.Timeout, "start the agent",
		fmt.Errorf("the agent is not ready after %s", startWait), "run bastion agent run to see why, or add --no-agent"))
	defer cancel()
	for {
		info, err := client.Info(ctx)
		switch {
		case err == nil && info.Ending: // the next one is started when it has gone
			if err := sleep.For(ctx, Poll); err != nil {
				return nil, "", err
			}
			continue
		case err == nil:
			return client, info.Version, nil
		case !errors.Is(err, api.ErrNotRunning):
			return nil, "", err
		}
		if err := spawn(ctx, s); err != nil {
			return nil, "", err
		}
		if err := sleep.For(ctx, time.Millisecond); err != nil {
			return nil, "", err
		}
	}
}

// spawn starts the agent and waits until it serves, or has found that another one does. It has nothing of this
// command's environment that only concerns this command.
func spawn(ctx context.Context, s config.Settings) error {
	const op = "start the agent"
	self, err := os.Executable()
	if err != nil {
		return fail.New(fail.Other, op, err, "run bastion agent run in another terminal")
	}
	logFile, err := LogFile(s)
	if err != nil {
		return err
	}
	texts := s.Texts()
	args := []string{"bastion", "agent", "run", "--log-file", logFile}
	env := environFrom(os.Environ())
	for _, key := range []string{
		"runtime_dir", "state_dir", "agent_idle", "metrics_listen", "metrics_token_file",
		"verbose",
	} {
		if texts[key] != "" {
			env = append(env, config.Lookup(key).Env()+"="+texts[key])
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail.New(fail.Other, op, err, "")
	}
	defer func() { _ = r.Close() }()
	var said strings.Builder
	crash, before, err := openCrashFile(filepath.Join(filepath.Dir(logFile), "agent.err"))
	if err != nil {
		_ = w.Close()
		return fail.New(fail.Other, op, err, "set another state_dir (BASTION_STATE_DIR)")
	}
	defer func() { _ = crash.Close() }()
	cmd := &exec.Cmd{
		Path: self, Args: args, Env: env, Dir: filepath.VolumeName(self) + string(filepath.Separator),
		Stdout: w, Stderr: crash,
	}
	process.Detach(cmd)
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return fail.New(fail.Other, op, err, "run bastion agent run in another terminal")
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // if it serves, it ends after this process
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	if line, err := bufio.NewReader(r).ReadString('\n'); err == nil && line != "" {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	how := <-ended
	if _, err := crash.Seek(before, io.SeekStart); err == nil {
		_, _ = io.Copy(&said, io.LimitReader(crash, logTail))
	}
	if said.Len() == 0 && how != nil {
		said.WriteString(how.Error())
	}
	if strings.Contains(said.String(), agent.ErrRunning.Error()) {
		return sleep.For(ctx, Poll) // another command has started it and it is about to serve
	}
	return fail.New(fail.Other, op, fmt.Errorf("the agent ended: %s", strings.TrimSpace(said.String())),
		"run the command with --no-agent")
}

// openCrashFile opens the file of what an agent says outside of its log: why it did not start, or crashed. Several may
// write there. It returns the size that it had before.
func openCrashFile(path string) (f *os.File, before int64, err error) {
	if f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600); err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > maxCrashFile {
		err = f.Truncate(0)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	if before = info.Size(); before > maxCrashFile {
		before = 0
	}
	return f, before, nil
}

// variables are the variables that the agent gets of the command that starts it: what every program of the user has. It lives
// longer than the command, whose environment may have secrets that are none of its business.
var variables = []string{
	"HOME", "USER", "LOGNAME", "PATH", "SHELL", "LANG", "TZ", "TMPDIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG",
	// Windows
	"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA",
	"PROGRAMFILES", "USERPROFILE", "USERNAME", "USERDOMAIN", "HOMEDRIVE", "HOMEPATH",
}

// environFrom returns those of environ.
func environFrom(environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		name = strings.ToUpper(name)
		if slices.Contains(variables, name) || strings.HasPrefix(name, "XDG_") || strings.HasPrefix(name, "LC_") {
			out = append(out, kv)
		}
	}
	return out
}
