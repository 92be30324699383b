package launch

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// logTail is how much of the end of a log is printed, in bytes.
const logTail = 64 << 10

// LogFile returns the path of the agent's log.
func LogFile(s config.Settings) (string, error) {
	dir, err := dirs.State(s.Local.StateDir)
	return filepath.Join(dir, "agent.log"), err
}

// PrintLog prints the end of the log at path. With follow it goes on with new lines, also those of a file that is begun anew, until ctx
// has ended.
func PrintLog(ctx context.Context, path string, show io.Writer, follow bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fail.New(fail.Other, "read the agent's log", err, "run bastion agent start; a log begins when a command starts the agent")
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReader(f)
	if info, err := f.Stat(); err == nil && info.Size() > logTail {
		if _, err := f.Seek(-logTail, io.SeekEnd); err != nil {
			return err
		}
		if _, err := r.ReadString('\n'); err != nil && !errors.Is(err, io.EOF) { // a part of a line
			return err
		}
	}
	for {
		if _, err := io.Copy(show, r); err != nil || !follow {
			return err
		}
		if err := sleep.For(ctx, Poll); err != nil {
			return err
		}
		if next, err := os.Open(path); err == nil {
			if sameFile(f, next) {
				_ = next.Close()
				continue
			}
			// A new file was begun: print the end of the old one first.
			_, err := io.Copy(show, r)
			_ = f.Close()
			f = next
			r.Reset(f)
			if err != nil {
				return err
			}
		}
	}
}

// sameFile reports whether two open files are the same.
func sameFile(x, y *os.File) bool {
	xi, xerr := x.Stat()
	yi, yerr := y.Stat()
	return xerr == nil && yerr == nil && os.SameFile(xi, yi)
}
