package agent

import (
	"errors"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/tunnel"
)

// What ECS says of a task's end decides whether another is started, and for whom.
func TestEndOfBastion(t *testing.T) {
	exits := func(code int32) []bastions.Exit {
		return []bastions.Exit{{Container: "bastion", Code: aws.Int32(code)}}
	}
	for _, tt := range []struct {
		name        string
		code        string
		reason      string
		exits       []bastions.Exit
		how         ending
		interrupted bool // connections that were in use are worth another
	}{
		{"down", "UserInitiated", "bastion down", nil, byOwner, false},
		{"administrator", "UserInitiated", "too expensive", exits(0), cutOff, true},
		{"host maintenance", "ServiceSchedulerInitiated", "host maintenance", exits(0), cutOff, true},
		{"idle or maximum life", "EssentialContainerExited", "Essential container in task exited", exits(0), byItself, false},
		{"crash", "EssentialContainerExited", "Essential container in task exited", exits(137), cutOff, true},
		{"not known yet", "EssentialContainerExited", "", nil, cutOff, true},
	} {
		how, why := endOf(bastions.Bastion{
			Container: "bastion", LastStatus: "STOPPED", StopCode: tt.code, StoppedReason: tt.reason, Exits: tt.exits,
		})
		if how != tt.how || why == nil {
			t.Errorf("%s: %d, %v; want %d", tt.name, how, why, tt.how)
		}
		for use, want := range map[tunnel.Use]bool{tunnel.Unused: false, tunnel.Interrupted: tt.interrupted, tunnel.Wanted: true} {
			gone := newGone(bastions.Bastion{TaskID: "t"}, how, why)
			got := unlessReplaced(tunnel.WithUse(t.Context(), use), gone)
			if !isGone(got) || tunnel.IsGone(got) == want {
				t.Errorf("%s: use %d: %v, want another %t", tt.name, use, got, want)
			}
		}
	}
	if err := unlessReplaced(tunnel.WithUse(t.Context(), tunnel.Unused), errors.New("no network")); tunnel.IsGone(err) {
		t.Error("a bastion that may stand is taken for gone")
	}
}
