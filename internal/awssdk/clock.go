package awssdk

import (
	"context"
	"sync/atomic"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
)

// leastSkew is the difference of two clocks that counts: dates in answers have whole seconds, and answers take their time.
const leastSkew = time.Minute

// Clock knows how far AWS's clock is ahead of this machine's. The SDK signs its own calls by what it learns, for each client apart;
// what is signed without a call, or compared with a clock in AWS, goes by this one. The zero value has learnt nothing.
type Clock struct{ learnt atomic.Pointer[time.Duration] }

// Skew returns what must be added to this machine's time; known is whether an answer has told.
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

// Learn notes the difference that an answer shows.
func (c *Clock) Learn(skew time.Duration) { c.learnt.Store(&skew) }

// Add makes every answer to an operation tell the time.
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
