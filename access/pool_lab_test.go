package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/tunnel"
)

// quickly makes links try again soon.
var quickly = []string{"reconnect_min=10ms", "reconnect_max=50ms", "sessions=2"}

// link returns a started link of the Access. The test's end closes it, before the Access.
func (l *testLab) link(a *Access, permit ...string) *Pool {
	l.t.Helper()
	link, err := a.Pool(permit, func(tunnel.State) {})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = link.Close() })
	link.Start(l.t.Context())
	return link
}

// dial connects through a link to an echo.
func (l *testLab) dial(link *Pool, to string) net.Conn {
	l.t.Helper()
	conn, err := link.Dial(l.t.Context(), "tcp", to)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = conn.Close() })
	echoes(l.t, conn)
	return conn
}

// cut ends the sessions to ports, as AWS does.
func (l *testLab) cut() {
	l.t.Helper()
	for _, s := range l.Gateway().Sessions() {
		if s.Document != gateway.DocECSExec {
			_ = l.Gateway().Terminate(s.ID) // it may have ended
		}
	}
}

// A bastion costs money. How one ends, and whether connections were cut, decides whether a link starts another by itself. The next
// connection always gets one.
func TestLinkAfterItsBastion(t *testing.T) {
	t.Parallel()
	to := echo(t)
	down := func(l *testLab, a *Access) error {
		_, err := a.Down(context.Background(), false)
		return err
	}
	stop := func(l *testLab, _ *Access) error {
		return l.StopTask(context.Background(), l.Tasks()[0].ID, "host maintenance")
	}
	crash := func(l *testLab, _ *Access) error { return l.KillTask(l.Tasks()[0].ID) }
	for _, tt := range []struct {
		name    string
		end     func(*testLab, *Access) error
		held    bool // a connection is open
		another bool // is started by the link itself
		why     string
	}{
		{"down", down, false, false, "the task was stopped by bastion down"},
		{"down, held", down, true, false, "the task was stopped by bastion down"},
		{"stopped", stop, false, false, "the task has stopped: host maintenance"},
		{"stopped, held", stop, true, true, ""},
		{"crash", crash, false, false, "the task has stopped: "},
		{"crash, held", crash, true, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := startLab(t, reaching)
			a := l.access(Options{}, quickly...)
			link := l.link(a, to)
			conn := l.dial(link, to)
			if !tt.held {
				_ = conn.Close()
				eventually(t, "nobody uses the link", func() bool { return a.Links()[0].Channels == 0 })
			}
			first := link.State().Describe
			if err := tt.end(l, a); err != nil {
				t.Fatal(err)
			}
			if tt.another {
				eventually(t, "another bastion", func() bool {
					st := link.State()
					return st.Phase == tunnel.Up && st.Describe != first
				})
			} else {
				eventually(t, "the link is idle", func() bool { return link.State().Phase == tunnel.Idle })
				if err := link.State().Err; err == nil || !strings.Contains(err.Error(), tt.why) {
					t.Errorf("the link is idle: %v, want %q", err, tt.why)
				}
				if shown := a.Links()[0]; !strings.Contains(shown.Error, tt.why) || link.Condition().Waiting {
					t.Errorf("%+v, %+v", shown, link.Condition())
				}
				if n := len(l.Tasks()); n != 1 {
					t.Errorf("%d tasks", n)
				}
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("a connection outlives its bastion")
			}
			l.dial(link, to)
			if n := len(l.Tasks()); n != 2 {
				t.Errorf("%d tasks, want 2", n)
			}
		})
	}
}

// pathTold collects what an Access tells of its paths.
type pathTold struct {
	mu  sync.Mutex
	all []report.Path
}

func (p *pathTold) add(path report.Path) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, path)
}

// last returns what was told last, and whether anything was.
func (p *pathTold) last() (path report.Path, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) == 0 {
		return report.Path{}, false
	}
	return p.all[len(p.all)-1], true
}

// A bond without sessions waits. Its state has AWS's reason and the next step, whoever wants to reach the bastion is told so at
// once, and its connections live on when there is a session again. The same key and grant serve all the time.
func TestLinkWithoutPath(t *testing.T) {
	t.Parallel()
	to := echo(t)
	l := startLab(t, reaching)
	var told pathTold
	var steps steps
	a := l.access(Options{Path: told.add, Progress: steps.add}, quickly...)
	link := l.link(a, to)
	conn := l.dial(link, to)
	l.faults(lab.APIFaults{Deny: []string{"ssm:StartSession"}})
	l.cut()
	eventually(t, "the link waits", func() bool { return link.Condition().Waiting && link.Condition().Err != nil })
	if c := link.Condition(); fail.KindOf(c.Err) != fail.Denied || c.Since.IsZero() {
		t.Errorf("%+v", c)
	}
	if s := a.Links()[0]; s.State != "waiting" || s.Pathless == nil || !strings.Contains(s.Error, "ssm:StartSession") || s.Next == "" ||
		s.Kind != "bond" {
		t.Errorf("%+v", s)
	}
	err := link.Reach(t.Context())
	if fail.KindOf(err) != fail.Denied || !strings.HasPrefix(err.Error(), "reach the bastion: no path since ") || fail.NextOf(err) == "" {
		t.Errorf("%v, hint %q", err, fail.NextOf(err))
	}
	eventually(t, "the loss is told", func() bool { path, ok := told.last(); return ok && path.Lost })
	l.faults(lab.APIFaults{})
	if err := link.Reach(t.Context()); err != nil {
		t.Error(err)
	}
	if c := link.Condition(); c != (Condition{}) {
		t.Errorf("with a path: %+v", c)
	}
	echoes(t, conn)
	eventually(t, "the path is told", func() bool { path, _ := told.last(); return !path.Lost })
	if path, _ := told.last(); path.Linger != a.settings.Link.Linger || path.Since.IsZero() {
		t.Errorf("told %+v", path)
	}
	l.wantCalls(map[string]int{"ecs:ExecuteCommand": 1 + steps.early(), "ecs:RunTask": 1})
}

// While a link is made its condition has AWS's latest answer, also within an attempt that goes on.
func TestLinkIsMade(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	l.faults(lab.APIFaults{NotConnected: -1})
	var steps steps
	a := l.access(Options{Progress: steps.add}, quickly...)
	link := l.link(a)
	eventually(t, "AWS's answer", func() bool { return link.Condition().Err != nil })
	if c := link.Condition(); !c.Waiting || c.Since.IsZero() || !strings.Contains(c.Err.Error(), "TargetNotConnected") {
		t.Errorf("%+v", c)
	}
	if s := a.Links()[0]; s.State != string(tunnel.Connecting) || !strings.Contains(s.Error, "TargetNotConnected") || len(s.Sessions) != 0 ||
		s.Sessions == nil {
		t.Errorf("%+v", s)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if err := link.Reach(ctx); !errors.Is(err, enough) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	l.faults(lab.APIFaults{})
	if err := link.Reach(t.Context()); err != nil {
		t.Error(err)
	}
	if c := link.Condition(); c != (Condition{}) {
		t.Errorf("%+v", c)
	}
	target := new(l.running(a)).Target()
	if !steps.has("waiting for the bastion's exec agent to connect") && !steps.has("waiting for "+target+" to connect to SSM") {
		t.Errorf("the steps: %q", steps.texts())
	}
}

// A first attempt that fails for good ends the link with the reason: it does not try on.
func TestLinkIsNotMade(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	l.faults(lab.APIFaults{Deny: []string{"ecs:ExecuteCommand"}})
	a := l.access(Options{}, quickly...)
	link := l.link(a)
	if err := link.Ready(t.Context()); fail.KindOf(err) != fail.Denied || !strings.Contains(err.Error(), "hand a key to ") {
		t.Errorf("%v", err)
	}
	<-link.Done()
	if c := link.Condition(); c.Waiting {
		t.Errorf("%+v", c)
	}
	if s := a.Links()[0]; s.State != string(tunnel.Down) || s.Error == "" {
		t.Errorf("%+v", s)
	}
	l.wantCalls(map[string]int{"ecs:RunTask": 1})
}

// A link to a plain server gets further connections over sessions of their own while the first is busy, up to the setting.
func TestServerLinkGrows(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	user, private := newKey(t)
	l := startLab(t, withNode(startNode(t, only("jo", user.PublicKey()), host)))
	a := l.access(Options{}, append(serverSettings(host.PublicKey(), keyFile(t, private)), "sessions=2")...)
	link := l.link(a)
	for i := range 20 {
		l.dial(link, fmt.Sprintf("db%d:5432", i))
	}
	eventually(t, "a second session", func() bool { return len(a.Links()[0].Sessions) == 2 })
	l.wantCalls(map[string]int{"ssm:StartSession": 2})
}

// The document that AWS takes for a cluster's tasks is found, shown with the reason, and used at once by the next command. What worked and
// is refused is doubted. A document that the user has set is not replaced.
func TestDocumentIsChosen(t *testing.T) {
	t.Parallel()
	const (
		ssh  = sessions.DocumentSSH
		port = sessions.DocumentPort
	)
	type step struct {
		refused  map[string]string // by the lab
		settings []string
		document string // that is used; "": none
		reason   string
		calls    int // of StartSession, before one is open
	}
	for name, all := range map[string][]step{
		"the preferred": {{document: ssh, calls: 1}, {document: ssh, calls: 1}},
		"denied": {
			{refused: map[string]string{ssh: lab.RefuseDenied}, document: port, reason: ssh + ": AccessDenied", calls: 2},
			{refused: map[string]string{ssh: lab.RefuseDenied}, document: port, reason: ssh + ": AccessDenied", calls: 1},
			{document: port, reason: ssh + ": AccessDenied", calls: 1}, // remembered
			{refused: map[string]string{port: lab.RefuseInvalid}, document: ssh, calls: 2},
			{document: ssh, calls: 1},
		},
		"unknown": {{refused: map[string]string{ssh: lab.RefuseInvalid}, document: port, reason: ssh + ": InvalidDocument", calls: 2}},
		"both": {
			{refused: map[string]string{ssh: lab.RefuseDenied, port: lab.RefuseInvalid}, reason: "AccessDenied", calls: 2},
		},
		"both, after one has worked": {
			{refused: map[string]string{ssh: lab.RefuseDenied}, document: port, reason: ssh + ": AccessDenied", calls: 2},
			{
				refused: map[string]string{ssh: lab.RefuseDenied, port: lab.RefuseInvalid}, reason: "AccessDenied",
				calls: 3 + 2, // before and after the bastion's answer
			},
			{document: ssh, calls: 1}, // neither is remembered
		},
		"set": {
			{settings: []string{"session_document=" + port}, document: port, reason: "the setting session_document", calls: 1},
			{
				refused: map[string]string{port: lab.RefuseInvalid}, settings: []string{"session_document=" + port}, reason: "InvalidDocument",
				calls: 2, // before and after the bastion's answer
			},
			{document: ssh, calls: 1}, // the setting is not remembered
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLab(t, nil)
			for i, st := range all {
				l.faults(lab.APIFaults{Documents: st.refused})
				a := l.access(Options{}, append([]string{"sessions=1"}, st.settings...)...)
				before := l.calls("ssm:StartSession")[0]
				s, err := a.OpenSSH(t.Context(), nil)
				if n := l.calls("ssm:StartSession")[0] - before; n != st.calls {
					t.Errorf("step %d: %d calls, want %d", i, n, st.calls)
				}
				if st.document == "" {
					if err == nil || !strings.Contains(err.Error(), st.reason) {
						t.Errorf("step %d: %v, want %q", i, err, st.reason)
					}
					continue
				}
				if err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				shown := a.Links()[0]
				if shown.Document != st.document || !strings.HasPrefix(shown.DocumentReason, st.reason) ||
					st.reason == "" && shown.DocumentReason != "" {
					t.Errorf("step %d: %s because of %q; want %s because of %q", i, shown.Document, shown.DocumentReason, st.document, st.reason)
				}
				in := l.Gateway().Sessions()
				if !slices.ContainsFunc(in, func(s gateway.Info) bool { return s.Document == st.document }) {
					t.Errorf("step %d: sessions %+v", i, in)
				}
				_ = s.Close()
				a.Close()
			}
		})
	}
}

// A link that has as many sessions as AWS allows the container gives one up for another command, gets it back, and says so.
func TestLinkLendsASession(t *testing.T) {
	t.Parallel()
	to := echo(t)
	l := startLab(t, reaching)
	a := l.access(Options{}, quickly...)
	link := l.link(a, to)
	conn := l.dial(link, to)
	// The link has one session: the container's only place.
	l.faults(lab.APIFaults{SessionsPerContainer: 1})
	var steps steps
	other := l.access(Options{Progress: steps.add})
	other.bonds.mu.Lock()
	other.bonds.all = make(map[bonded]*bondState)
	a.bonds.mu.Lock()
	for conn, s := range a.bonds.all {
		other.bonds.all[conn] = s
	}
	a.bonds.mu.Unlock()
	other.bonds.mu.Unlock()
	if _, err := other.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !steps.has("waiting for a session that AWS starts: the bastion has as many as it may have") {
		t.Errorf("the steps: %q", steps.texts())
	}
	l.faults(lab.APIFaults{})
	if err := link.Reach(t.Context()); err != nil {
		t.Error(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	echoes(t, conn)
}
