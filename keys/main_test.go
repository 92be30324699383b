package keys

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newPair makes a pair for a test.
func newPair(t testing.TB) *Pair {
	t.Helper()
	p, err := NewPair("test")
	if err != nil {
		t.Fatal(err)
	}
	return p
}
