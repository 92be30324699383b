package lab

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

// A port that was free may be taken by the time that the server listens: another address is tried, but not for ever.
func TestOnLoopback(t *testing.T) {
	for _, tt := range []struct {
		name  string
		errs  []error // of the starts; then they succeed
		tries int
		fails bool
	}{
		{"free", nil, 1, false},
		{"taken once", []error{fmt.Errorf("listen: %w", syscall.EADDRINUSE)}, 2, false},
		{"always taken", []error{syscall.EADDRINUSE, syscall.EADDRINUSE, syscall.EADDRINUSE, syscall.EADDRINUSE}, 3, true},
		{"another error", []error{errors.New("not installed")}, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tries := 0
			err := onLoopback(80, func(string, int) error {
				tries++
				if tries > len(tt.errs) {
					return nil
				}
				return tt.errs[tries-1]
			})
			if tries != tt.tries || (err != nil) != tt.fails {
				t.Errorf("%d tries, want %d; %v", tries, tt.tries, err)
			}
		})
	}
}
