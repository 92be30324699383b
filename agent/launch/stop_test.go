package launch

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// One that does not end in its time is killed, and one that a kill does not end is told of.
func TestEndWithin(t *testing.T) {
	for name, tt := range map[string]struct {
		ends   time.Duration // by itself; 0: never
		dies   time.Duration // after the kill; 0: never
		kill   error
		killed bool
		takes  time.Duration
		fails  bool
	}{
		"ends":                       {ends: 20 * time.Second, takes: 20 * time.Second},
		"blocked":                    {dies: time.Second, killed: true, takes: EndWait + time.Second},
		"ended just before the kill": {ends: EndWait + time.Second, kill: os.ErrProcessDone, killed: true, takes: EndWait + time.Second},
		"cannot be killed":           {kill: errors.New("not permitted"), takes: EndWait, fails: true},
		"blocked in the system":      {killed: true, takes: 2 * EndWait, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun, end := time.Now(), time.Time{}
				if tt.ends > 0 {
					end = begun.Add(tt.ends)
				}
				killed, err := endWithin(t.Context(), func(context.Context) bool { return !end.IsZero() && !time.Now().Before(end) }, func() error {
					if tt.dies > 0 {
						end = time.Now().Add(tt.dies)
					}
					return tt.kill
				})
				took := time.Since(begun)
				if killed != tt.killed || (err != nil) != tt.fails || err != nil && fail.KindOf(err) != fail.Timeout {
					t.Errorf("killed %v, %v", killed, err)
				}
				if took < tt.takes || took > tt.takes+4*Poll {
					t.Errorf("after %v, want %v", took, tt.takes)
				}
			})
		})
	}
}
