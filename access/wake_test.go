package access

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

func TestWakeDetector(t *testing.T) {
	const tick = wakeCheck
	for _, tt := range []struct {
		name       string
		mono, wall time.Duration // since the last observation
		network    uint64
		want       string
	}{
		{"all well", tick, tick, 7, ""},
		{"a loaded machine", tick + 8*time.Second, tick + 8*time.Second, 7, ""},
		{"slept", tick, 10 * time.Minute, 7, "the machine has slept"},
		{"slept for moments", tick, tick + 9*time.Second, 7, ""},
		{"stopped", 30 * time.Second, 30 * time.Second, 7, "the process was stopped"},
		{"the wall clock was set back", tick, -time.Hour, 7, ""},
		{"another network", tick, tick, 8, "the network has changed"},
		{"the network is not known", tick, tick, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d wakeDetector
			wall := time.Unix(1e9, 0)
			if got := d.observe(time.Minute, wall, 7); got != "" {
				t.Errorf("the first observation: %q", got)
			}
			if got := d.observe(time.Minute+tt.mono, wall.Add(tt.wall), tt.network); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	var d wakeDetector
	d.observe(0, time.Unix(0, 0), 7)
	d.observe(tick, time.Unix(5, 0), 0)
	if got := d.observe(2*tick, time.Unix(10, 0), 8); got != "the network has changed" {
		t.Errorf("after a time without knowledge: %q", got)
	}
	first, second := networkHash(), networkHash()
	if first != second || first == 0 {
		t.Errorf("the addresses have no stable hash: %x, %x", first, second)
	}
}

// Credentials that say nothing of their end are looked at now and then, and when the machine wakes.
func TestCredentialsAreLookedAtOnWaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAccess(t, Settings{})
		var key atomic.Value
		key.Store("AKIA0")
		a.credentials = provider(func() (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: key.Load().(string)}, nil
		})
		b := &fakeBond{}
		a.bonds.add(b, "AKIA0", "")
		wakes := make(chan struct{}, 1)
		a.tasks.Go(func() { a.watchCredentials(wakes) })
		<-time.After(90 * time.Second)
		key.Store("AKIA1")
		synctest.Wait()
		if b.rotated != 0 {
			t.Error("looked at all the time")
		}
		wakes <- struct{}{}
		synctest.Wait()
		if b.rotated != 1 {
			t.Error("not looked at on waking")
		}
		key.Store("AKIA2")
		<-time.After(credentialsCheck)
		synctest.Wait()
		if b.rotated != 2 {
			t.Error("not looked at now and then")
		}
	})
}
