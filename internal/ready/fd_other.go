//go:build !unix

package ready

import (
	"context"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// FD is an inherited file descriptor, which this system does not have.
type FD struct{}

func openFD(n int) (*FD, error) {
	return nil, fail.Usagef("use --ready-file", "--ready-fd %d: programs inherit no descriptors by number on this system", n)
}

func (f *FD) write(context.Context, []byte) error { return nil }

// Close does nothing.
func (f *FD) Close() error { return nil }
