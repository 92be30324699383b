package vpc

import (
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("VPC_TEST_ORPHAN") != "" {
		orphanMain()
		return
	}
	goleak.VerifyTestMain(m)
}

// modes are the kinds of server that a test runs against side by side. Without the real program the real kind is left out
// on a laptop; in CI that is a failure.
func modes(t *testing.T, program string) []Mode {
	t.Helper()
	var err error
	if program == "postgres" {
		_, err = findPostgres()
	} else {
		_, err = exec.LookPath(program)
	}
	if err == nil {
		return []Mode{Real, Embedded}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is needed in CI (make deps): %v", program, err)
	}
	t.Logf("%s is not installed (make deps): only the embedded stand-in is tested", program)
	return []Mode{Embedded}
}

func testLogger(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
