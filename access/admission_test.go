package access

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/internal/config"
)

func TestKeepGranted(t *testing.T) {
	const lifetime = time.Hour
	type answer struct {
		after time.Duration // of the start: when the renewal must come
		until time.Duration // of the start: what the bastion grants
		err   error
	}
	denied := errors.New("signed out")
	for _, tt := range []struct {
		name    string
		answers []answer
		ended   time.Duration // of the start: when the session ends; 0: never
		last    time.Duration // the grant that counts at the end
	}{
		{name: "renewed before its end", answers: []answer{
			{after: 45 * time.Minute, until: 105 * time.Minute},
			{after: 90 * time.Minute, until: 150 * time.Minute},
		}, ended: 100 * time.Minute, last: 150 * time.Minute},
		{name: "session ends first", ended: 30 * time.Minute, last: time.Hour},
		{name: "bastion's life ends", answers: []answer{
			{after: 45 * time.Minute, until: 80 * time.Minute},
			{after: 65 * time.Minute, until: 80 * time.Minute},
		}, last: 80 * time.Minute},
		{name: "tried again", answers: []answer{
			{after: 45 * time.Minute, err: denied},
			{after: 46*time.Minute + 30*time.Second, until: 106 * time.Minute},
		}, ended: 50 * time.Minute, last: 106 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := testAccess(t, Settings{Grant: config.Grant{Lifetime: lifetime}})
				began := time.Now()
				x := &admission{access: a, push: answered(began.Add(lifetime), nil)}
				ended := make(chan struct{})
				if tt.ended > 0 {
					time.AfterFunc(tt.ended, func() { close(ended) })
				}
				n := 0
				x.keepGranted(ended, func() (*push, error) {
					if n == len(tt.answers) {
						t.Fatalf("a renewal after %v", time.Since(began))
					}
					next := tt.answers[n]
					n++
					if got := time.Since(began); got != next.after {
						t.Errorf("renewal %d after %v, want %v", n, got, next.after)
					}
					return answered(began.Add(next.until), next.err), nil
				})
				if n != len(tt.answers) {
					t.Errorf("%d renewals, want %d", n, len(tt.answers))
				}
				if got := x.until().Sub(began); got != tt.last {
					t.Errorf("granted until %v, want %v", got, tt.last)
				}
			})
		})
	}
}

// A grant that is never renewed again ends the renewing with it.
func TestKeepGrantedGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAccess(t, Settings{Grant: config.Grant{Lifetime: time.Hour}})
		began := time.Now()
		x := &admission{access: a, push: answered(began.Add(time.Hour), nil)}
		x.keepGranted(nil, func() (*push, error) { return nil, errors.New("signed out") })
		if d := time.Since(began); d < time.Hour || d > 62*time.Minute {
			t.Errorf("gave up after %v", d)
		}
	})
}
