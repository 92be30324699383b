package process

import (
	"errors"
	"os"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestFind(t *testing.T) {
	for name, want := range map[string]int{
		"no-such-program": NotFound, "/no/such": NotFound,
		os.DevNull: NotExecutable,
	} {
		_, err := Find("exec", name)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != want || fail.NextOf(err) == "" {
			t.Errorf("%s: %v, want exit code %d", name, err, want)
		}
	}
}
