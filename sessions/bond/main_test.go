package bond

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// after is time.After by a callback. With a channel timer, the goroutine that looks at the due timer runs it. When two do so in one
// bubble of testing/synctest, the race detector crashes (go.dev/issue/78156). A timer that is due as it is made has crashed it too.
func after(d time.Duration) <-chan struct{} {
	due := make(chan struct{})
	if d <= 0 {
		close(due)
		return due
	}
	time.AfterFunc(d, func() { close(due) })
	return due
}
