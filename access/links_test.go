package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/private"
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

func TestProcesses(t *testing.T) {
	dir := shortDir(t)
	s := Settings{Local: config.Local{RuntimeDir: dir}}
	if got, err := Processes(t.Context(), s); err != nil || len(got) != 0 {
		t.Errorf("without any: %v, %v", got, err)
	}
	a := &Access{settings: s, region: "eu-central-1", log: testAccess(t, s).log, options: Options{Command: "forward", Version: "1"}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	b := &fakeBond{stats: bond.Stats{
		Sent: 10, Received: 20, Reinjected: 3, Pathless: time.Now(),
		Subflows: []bond.SubflowStats{{ID: 1, Name: "lab-1", State: bond.Stalled, Age: time.Minute, RTT: 42 * time.Millisecond, InFlight: 5}},
	}}
	l := &report.Link{Bastion: "bastion 1", State: string(tunnel.Up), Kind: "single", Channels: 2, Sessions: []report.Session{}}
	addBond(l, b.Stats(), map[uint32]flowRate{1: {up: 7, down: 8}})
	a.credentials = provider(func() (aws.Credentials, error) { return aws.Credentials{}, nil })
	shown := &fakeLive{links: []report.Link{*l}}
	hide := a.addLink(shown)
	hideOther := a.addLink(&fakeLive{links: []report.Link{{Bastion: "bastion 0", Sessions: []report.Session{}}}})

	got, err := Processes(t.Context(), s)
	if err != nil || len(got) != 1 || len(got[0].Links) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got[0].PID != os.Getpid() || got[0].Command != "forward" || got[0].Region != "eu-central-1" || got[0].V != liveVersion {
		t.Errorf("%+v", got[0])
	}
	link := got[0].Links[1]
	if link.Bastion != "bastion 1" || link.State != "waiting" || link.Kind != "bond" || link.Pathless == nil ||
		link.Reinjected != 3 || len(link.Sessions) != 1 || len(link.Lacks) != 0 {
		t.Errorf("%+v", link)
	}
	if f := link.Sessions[0]; f.ID != "lab-1" || f.State != "stalled" || f.Age != 60 || f.RTT != 42 || f.InFlight != 5 ||
		f.SendRate != 7 || f.ReceiveRate != 8 {
		t.Errorf("%+v", f)
	}
	hideOther()
	if got, _ := Processes(t.Context(), s); len(got) != 1 || len(got[0].Links) != 1 {
		t.Errorf("after one has gone: %+v", got)
	}

	// It is for reading, and for this user.
	socket := filepath.Join(dir, liveDir, fmt.Sprint(os.Getpid())+private.Suffix)
	if runtime.GOOS != "windows" {
		for path, want := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return private.DialSocket(socket) },
	}}
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/v1/links", http.StatusOK},
		{http.MethodPost, "/v1/links", http.StatusMethodNotAllowed},
		{http.MethodGet, "/v1/", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://bastion"+tt.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s: %s", tt.method, tt.path, resp.Status)
		}
		_ = resp.Body.Close()
	}

	// A socket whose process was killed is removed; one that answers something else is left alone and not shown.
	stale := filepath.Join(dir, liveDir, "1.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	odd, err := net.Listen("unix", filepath.Join(dir, liveDir, "2.sock"))
	if err != nil {
		t.Fatal(err)
	}
	newer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(report.Process{V: liveVersion + 1})
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = newer.Serve(odd) })
	if got, err := Processes(t.Context(), s); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale socket: %v", err)
	}
	if _, err := os.Stat(odd.Addr().String()); err != nil {
		t.Errorf("the other process's socket: %v", err)
	}
	_ = newer.Close()
	serving.Wait()

	a.probe()
	hide()
	a.probe()
	if shown.probed != 1 {
		t.Errorf("probed %d times, want once", shown.probed)
	}
	a.Close()
	if left, err := filepath.Glob(filepath.Join(dir, liveDir, "*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
