package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/bastion-ssm/bastion/internal/process"
)

// openerPatience is how long a program that opens pages may take to fail. Most have handed on the page by then; some
// stay for as long as the browser does.
const openerPatience = 2 * time.Second

// OpenPage opens a file in the user's own browser. The file leads to a page whose address is good for its first user: every user of
// the machine can read command lines.
func OpenPage(ctx context.Context, page string) error {
	if runtime.GOOS == "linux" && os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" &&
		os.Getenv("BROWSER") == "" {
		return errors.New("this session has no display")
	}
	if page == "" {
		return errors.New("the page with the address could not be written")
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "xdg-open", page)
	switch runtime.GOOS {
	case "darwin":
		cmd = exec.CommandContext(context.WithoutCancel(ctx), "open", page)
	case "windows":
		cmd = exec.CommandContext(context.WithoutCancel(ctx), "rundll32", "url.dll,FileProtocolHandler", page)
	}
	process.Detach(cmd) // Ctrl-C is for the command, not for the browser
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // if it stays, it ends after this process
	t := time.NewTimer(openerPatience)
	defer t.Stop()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("%s: %w", cmd.Args[0], err)
		}
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}
