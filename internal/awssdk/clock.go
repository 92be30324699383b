package awssdk

import (
	"context"
	"sync/atomic"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
)

// leastSkew is the least clock difference that counts: dates in answers have whole seconds, and answers take time.
const leastSkew = time.Minute

// Clock knows how far AWS's clock is ahead of this machine's. The SDK corrects its own calls, for each client separately. This
// Clock is for signatures without a call and for comparisons with a clock in AWS. The zero value knows nothing.
type Clock struct{ learnt atomic.Pointer[time.Duration] }

// Skew returns the duration to add to this machine's time. known reports whether an answer has shown it.
func (c *Clock) Skew() (skew time.Duration, known bool) {
	learnt := c.learnt.Load()
	if learnt == nil {
		return 0, false
	}
	if learnt.Abs() < leastSkew {
		return 0, true
	}
	return *learnt, true
}

// Learn notes the skew that an answer shows.
func (c *Clock) Learn(skew time.Duration) { c.learnt.Store(&skew) }

// Add makes the Clock learn from every answer to an operation.
func (c *Clock) Add(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("LearnClock", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (middleware.FinalizeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleFinalize(ctx, in)
		if skew, ok := awsmiddleware.GetAttemptSkew(metadata); ok {
			c.Learn(skew)
		}
		return out, metadata, err
	}), "Retry", middleware.After)
}
