package ready

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// fdLimit is how long the reader of a descriptor may take to make room for the line.
const fdLimit = 10 * time.Second

// NewFD returns the descriptor of the given number. It must have been open when this process started, and writable. The programs
// that this process starts do not get it: its reader would wait for them.
func NewFD(text string) (*FD, error) {
	n, err := strconv.Atoi(text)
	switch {
	case err != nil || n < 0:
		return nil, fail.Usagef("write --ready-fd 3, and 3>FILE or 3>FIFO behind the command in a shell", "%q is not a file descriptor", text)
	case n <= 2:
		return nil, fail.Usagef("choose 3 or more, or read standard output with -o json, which has a line of JSON",
			"--ready-fd %d is a standard stream", n)
	}
	return openFD(n)
}

// Write writes the message as one line and closes the descriptor.
func (f *FD) Write(ctx context.Context, m Message) error {
	data, err := m.line()
	if err == nil {
		limited, cancel := context.WithTimeoutCause(ctx, fdLimit, fmt.Errorf("its reader makes no room within %s", fdLimit))
		err = f.write(limited, data)
		cancel()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fail.New(fail.Other, "write to the file descriptor of --ready-fd", err, "let its reader live until it has read a line")
	}
	return nil
}
