//go:build linux || darwin

package process

import (
	"context"
	"os"
)

// cancelled returns a descriptor that becomes readable when ctx ends. The caller calls done.
func cancelled(ctx context.Context) (fd int, done func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.Close() })
	return int(r.Fd()), func() {
		stop()
		_, _ = w.Close(), r.Close()
	}, nil
}
