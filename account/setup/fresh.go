package setup

import (
	"context"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/sleep"
)

const (
	freshTime  = 2 * time.Minute // how long AWS may not know new roles everywhere
	freshPause = 5 * time.Second
)

// WithFreshRoles calls start, which starts a task, and calls it again while ECS cannot assume the task's roles yet: what was just made in
// IAM takes a while to be known in every place. A refusal that lasts is start's error. Source: the IAM user guide, "Changes that I make
// are not always immediately visible".
func WithFreshRoles(ctx context.Context, start func() error) error {
	for end := time.Now().Add(freshTime); ; {
		err := start()
		if err == nil || !strings.Contains(err.Error(), "assume the role") || time.Now().After(end) {
			return err
		}
		if sleep.For(ctx, freshPause) != nil {
			return err
		}
	}
}
