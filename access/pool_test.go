package access

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

func TestGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := fail.New(fail.Start, "", errors.New("plain"), "do this")
		c := &fakeConnector{errs: []error{&transientError{plain}, plain, plain, plain}}
		g := &giveUp{connector: c, answers: new(awssdk.LastFailure), after: time.Minute}
		g.onState(tunnel.State{Phase: tunnel.Connecting})
		if _, err := g.Connect(t.Context()); tunnel.IsPermanent(err) {
			t.Errorf("a transient first failure is permanent: %v", err)
		}
		if _, err := g.Connect(t.Context()); !tunnel.IsPermanent(err) {
			t.Errorf("a first failure is not permanent: %v", err)
		}
		g.onState(tunnel.State{Phase: tunnel.Up})
		g.onState(tunnel.State{Phase: tunnel.Reconnecting})
		<-time.After(30 * time.Second)
		if _, err := g.Connect(t.Context()); tunnel.IsPermanent(err) {
			t.Errorf("gave up early: %v", err)
		}
		<-time.After(30 * time.Second)
		_, err := g.Connect(t.Context())
		if !tunnel.IsPermanent(err) || fail.KindOf(err) != fail.Lost {
			t.Errorf("did not give up: %v", err)
		}
		if !errors.Is(err, plain) || fail.NextOf(err) != plain.Next {
			t.Errorf("gave up without the latest failure: %v", err)
		}
		// Nobody waits for an idle link.
		c.errs = []error{plain}
		g.onState(tunnel.State{Phase: tunnel.Idle})
		<-time.After(time.Hour)
		if _, err := g.Connect(t.Context()); tunnel.IsPermanent(err) {
			t.Errorf("gave up an idle link: %v", err)
		}
	})
}
