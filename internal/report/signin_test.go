package report

import (
	"testing"
	"time"
)

// The question says whether the credentials still work, and what to do: by a command where there is one.
func TestAsk(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		s    SignIn
		want string
	}{
		{SignIn{Expires: now.Add(4*time.Minute + 200*time.Millisecond), Command: "bastion login"}, "the AWS credentials expire in 4m0s; sign in again: bastion login"},
		{SignIn{Expires: now.Add(-time.Second), Command: "bastion login"}, "the AWS credentials have expired; sign in again: bastion login"},
		{SignIn{Command: "aws login", Next: "other"}, "the AWS credentials no longer work; sign in again: aws login"},
		{SignIn{Next: "renew the token in /x"}, "the AWS credentials no longer work; renew the token in /x"},
		{SignIn{}, "the AWS credentials no longer work; sign in again"},
	} {
		if got := tt.s.Ask(now); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.s, got, tt.want)
		}
	}
}
