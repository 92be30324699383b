// Package notify shows desktop notifications, by the program that each system has for them. A system without one is no failure of
// the caller: a notification repeats what status says.
package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// programEnd is how long a program may take to end once its time is over.
const programEnd = time.Second

// errNone says that this system shows no notifications.
var errNone = errors.New("this session shows no notifications")

// Send shows a notification. The texts become arguments, which every user of the machine can read, and never part of a script.
func Send(ctx context.Context, title, text string) error {
	argv := command(runtime.GOOS, os.Getenv, printable.OneLine(title), printable.OneLine(text))
	if argv == nil {
		return errNone
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) // #nosec G204 -- a fixed program
	cmd.WaitDelay = programEnd
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	return nil
}

// command returns the command line for a system; nil: it has none.
func command(system string, getenv func(string) string, title, text string) []string {
	switch system {
	case "darwin":
		return []string{
			"osascript", "-e", "on run argv", "-e", "display notification (item 2 of argv) with title (item 1 of argv)", "-e", "end run",
			"--", title, text,
		}
	case "windows":
		return nil
	}
	if getenv("DBUS_SESSION_BUS_ADDRESS") == "" && getenv("DISPLAY") == "" && getenv("WAYLAND_DISPLAY") == "" {
		return nil
	}
	return []string{"notify-send", "--app-name=bastion", "--icon=dialog-password", "--", title, text}
}
