package access

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions/bond"
	"github.com/bastion-ssm/bastion/tunnel"
)

// What the bond met is in the link's state, for programs and in words.
func TestLiveBond(t *testing.T) {
	for want, st := range map[string]bond.Stats{
		"":                {},
		"bond: version 1": {Version: 1},
		"bond: version 2, 1 session ended because its":  {Version: 2, Damaged: 1},
		"bond: version 2, 3 sessions ended because the": {Version: 2, Damaged: 3},
	} {
		var l report.Link
		addBond(&l, st, nil)
		if got := l.Bond(); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%q, want %q", got, want)
		}
		text, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), `"damaged_sessions":`); got != (st.Damaged > 0) {
			t.Errorf("%s", text)
		}
	}
}

// The links of an Access are shown from the first one on, until it is closed, and found out about when the machine wakes.
func TestLinks(t *testing.T) {
	var showing []string
	a := testAccess(t, Settings{})
	a.credentials = provider(func() (aws.Credentials, error) { return aws.Credentials{}, nil })
	a.options.Show = func(same *Access) (hide func()) {
		if same != a {
			t.Error("another Access is shown")
		}
		showing = append(showing, "shown")
		return func() { showing = append(showing, "hidden") }
	}
	b := &fakeBond{stats: bond.Stats{
		Sent: 10, Received: 20, Reinjected: 3, Pathless: time.Now(),
		Subflows: []bond.SubflowStats{{ID: 1, Name: "lab-1", State: bond.Stalled, Age: time.Minute, RTT: 42 * time.Millisecond, InFlight: 5}},
	}}
	l := &report.Link{Bastion: "bastion 1", State: string(tunnel.Up), Kind: "single", Channels: 2, Sessions: []report.Session{}}
	addBond(l, b.Stats(), map[uint32]flowRate{1: {up: 7, down: 8}})
	shown := &fakeLive{links: []report.Link{*l}}
	hide := a.addLink(shown)
	hideOther := a.addLink(&fakeLive{links: []report.Link{{Bastion: "bastion 0", Sessions: []report.Session{}}}})

	got := a.Links()
	if len(got) != 2 || got[0].Bastion != "bastion 0" {
		t.Fatalf("%+v", got)
	}
	link := got[1]
	if link.Bastion != "bastion 1" || link.State != "waiting" || link.Kind != "bond" || link.Pathless == nil ||
		link.Reinjected != 3 || len(link.Sessions) != 1 || len(link.Lacks) != 0 {
		t.Errorf("%+v", link)
	}
	if f := link.Sessions[0]; f.ID != "lab-1" || f.State != "stalled" || f.Age != 60 || f.RTT != 42 || f.InFlight != 5 ||
		f.SendRate != 7 || f.ReceiveRate != 8 {
		t.Errorf("%+v", f)
	}
	hideOther()
	if got := a.Links(); len(got) != 1 {
		t.Errorf("after one has gone: %+v", got)
	}
	a.probe()
	hide()
	a.probe()
	if shown.probed != 1 {
		t.Errorf("probed %d times, want once", shown.probed)
	}
	if got := a.Links(); got == nil || len(got) != 0 {
		t.Errorf("after all have gone: %+v", got)
	}
	a.Close()
	if strings.Join(showing, " ") != "shown hidden" {
		t.Errorf("%q", showing)
	}
}
