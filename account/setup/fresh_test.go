package setup

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestWithFreshRoles(t *testing.T) {
	unknown := errors.New("RunTask: ClientException: ECS was unable to assume the role 'arn:...' that was provided for this task")
	other := errors.New("RunTask: AccessDeniedException")
	for name, test := range map[string]struct {
		err   func(after time.Duration) error
		want  error
		after time.Duration
	}{
		"known at once":  {func(time.Duration) error { return nil }, nil, 0},
		"known later":    {func(after time.Duration) error { return map[bool]error{true: unknown}[after < 12*time.Second] }, nil, 15 * time.Second},
		"never known":    {func(time.Duration) error { return unknown }, unknown, freshTime + freshPause},
		"another answer": {func(time.Duration) error { return other }, other, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				err := WithFreshRoles(t.Context(), func() error { return test.err(time.Since(begin)) })
				if !errors.Is(err, test.want) || time.Since(begin) != test.after {
					t.Errorf("%v after %v, want %v after %v", err, time.Since(begin), test.want, test.after)
				}
			})
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WithFreshRoles(ctx, func() error { return unknown }); !errors.Is(err, unknown) {
		t.Errorf("interrupted: %v", err)
	}
}
