package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

func testApp() (*app, *bytes.Buffer) {
	var out bytes.Buffer
	return newApp(stdio{out: &out, err: &out}), &out
}

// Options may stand anywhere before "--"; --help and --version are commands wherever they stand there.
func TestArrange(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"forward rds 1 --region x", "forward --region x -- rds 1"},
		{"forward rds --region=x 1 -q", "forward --region=x -q -- rds 1"},
		{"--region x forward rds", "forward --region x -- rds"},
		{"forward -L 1:a:2 -L 3:b:4", "forward -L 1:a:2 -L 3:b:4"},
		{"forward -o json rds", "forward -o json -- rds"},
		{"forward -- --odd", "forward -- --odd"},
		{"forward --assign-public-ip rds", "forward --assign-public-ip -- rds"},
		{"status", "status"},
		{"forward rds :", "forward -- rds :"},
		{"-- forward", "-- forward"},
		{"forward --unknown rds", "forward --unknown -- rds"},
		{"-q", "-q"},
		{"agent --log-file x run", "agent run --log-file x"},
		{"ls", "ls forwards"},
		{"ls -q targets", "ls targets -q"},
		{"service run", "service run"},
		{"--help", "help --"},
		{"-h", "help --"},
		{"forward rds:orders --help", "help -- forward"},
		{"forward --unknown --name --help -o json -h rds", "help -o json -- forward"},
		{"--help agent start", "help -- agent start"},
		{"exec rds:orders -h -- psql --help", "help -- exec"},
		{"exec rds:orders -- psql --help", "exec -- rds:orders -- psql --help"},
		{"agent start --version", "version"},
		{"--version -o json", "version -o json"},
		{"forward rds --version --name x", "version"},
	} {
		a, _ := testApp()
		got, err := a.arrange(append([]string{"bastion"}, strings.Fields(tt.in)...))
		if err != nil || strings.Join(got[1:], " ") != tt.want {
			t.Errorf("%s: got %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
	for in, want := range map[string]string{
		"nonsense --help": `unknown command "nonsense"`, "agent stat --help": `unknown subcommand "stat"`,
		"agent": "agent: a subcommand is missing", "forward --region": "the option --region needs a value",
	} {
		a, _ := testApp()
		if got, err := a.arrange(append([]string{"bastion"}, strings.Fields(in)...)); err == nil || err.Error() != want {
			t.Errorf("%s: got %q, %v; want %q", in, got, err, want)
		}
	}
}

// eachCommand calls do for every command and subcommand.
func eachCommand(c *command, path string, do func(c *command, path string)) {
	do(c, path)
	for _, v := range c.verbs {
		eachCommand(v, path+" "+v.name, do)
	}
}

// Each command says what it does, by examples that are well-formed command lines.
func TestEveryCommandHasExamples(t *testing.T) {
	a, _ := testApp()
	root := a.root()
	eachCommand(root, root.name, func(cmd *command, path string) {
		if len(cmd.examples) == 0 || len(cmd.examples) > 3 && cmd != root {
			t.Errorf("%s has %d examples", path, len(cmd.examples))
		}
		for _, line := range cmd.examples {
			line, _, _ := strings.Cut(line, "  #")
			for _, part := range regexp.MustCompile(`[;|&]+`).Split(line, -1) {
				part, _, _ = strings.Cut(part, " -- ") // another program's
				words := strings.Fields(part)
				if len(words) < 2 || words[0] != "bastion" {
					continue // of another program
				}
				if _, err := a.arrange(words); err != nil {
					t.Errorf("%s: the example %q: %v", path, line, err)
					continue
				}
				of := root
				for _, w := range words[1:] {
					if v := of.verb(w); v != nil {
						of = v
					}
				}
				for _, w := range words {
					if isOption(w) && findOption(a.options(of), strings.TrimLeft(w, "-")) == nil {
						t.Errorf("%s: the example %q has an unknown option", path, line)
					}
				}
			}
		}
	})
}

func TestExitCodesAreDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[int]bool)
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(string(data), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		documented[n] = true
	}
	codes := []int{0, 129, 130, 143}
	for kind := fail.Other; kind <= fail.Timeout; kind++ {
		code, ok := exitCodes[kind]
		if !ok {
			t.Errorf("kind %d has no exit code", kind)
		}
		codes = append(codes, code)
	}
	slices.Sort(codes)
	if len(slices.Compact(codes)) != len(documented) {
		t.Errorf("documented: %v; used: %v", documented, codes)
	}
	for _, code := range codes {
		if !documented[code] {
			t.Errorf("exit code %d is not documented", code)
		}
	}
}

// awsError is an error as the SDK gives it.
type awsError struct{ code, message string }

func (e awsError) Error() string        { return e.code }
func (e awsError) ErrorCode() string    { return e.code }
func (e awsError) ErrorMessage() string { return e.message }

// docs/exit-codes.md has the codes after each class of AWS's answers, for the calls that start something and for those that look
// something up.
func TestExitCodesOfAnswersAreDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := map[awsanswer.Class]error{
		awsanswer.None:           errors.New("connection refused"),
		awsanswer.Final:          awsError{"OddException", ""},
		awsanswer.Transient:      awsError{"InternalServerError", ""},
		awsanswer.Throttled:      awsError{"ThrottlingException", "Rate exceeded"},
		awsanswer.NotConnected:   awsError{"TargetNotConnected", ""},
		awsanswer.LimitReached:   awsError{"ServiceQuotaExceededException", ""},
		awsanswer.Denied:         awsError{"AccessDeniedException", ""},
		awsanswer.Expired:        awsError{"ExpiredTokenException", ""},
		awsanswer.BadCredentials: awsError{"InvalidClientTokenId", ""},
		awsanswer.NotFound:       awsError{"DBInstanceNotFound", ""},
		awsanswer.Config:         awsError{"ClusterNotFoundException", ""},
		awsanswer.Unsupported:    awsError{"UnsupportedOperationException", ""},
		awsanswer.Foreign:        awsError{"UnknownError", ""},
	}
	for class := awsanswer.None; class <= awsanswer.Foreign; class++ {
		if got := awsanswer.ClassOf(examples[class]); got != class {
			t.Errorf("the example of %v is %v", class, got)
			continue
		}
		row := fmt.Sprintf("| %v |", class)
		for _, kind := range []fail.Kind{fail.Start, fail.Other} {
			row += fmt.Sprintf(" %d |", finish(t.Context(), io.Discard, fail.AWS(kind, "ask", "a:Call", examples[class])))
		}
		if !strings.Contains(string(data), "\n"+row) {
			t.Errorf("docs/exit-codes.md lacks %s", row)
		}
	}
}

func TestFinish(t *testing.T) {
	ended := func(sig os.Signal) context.Context {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(interrupted{sig})
		return ctx
	}
	plain := context.Background()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		err  error
		code int
		out  string
	}{
		{"success", plain, nil, 0, ""},
		{"failure", plain, errors.New("broken"), 1, "bastion: broken\n"},
		{"hint", plain, fail.New(fail.Denied, "do it", errors.New("no"), "ask"), 5, "bastion: do it: no\n  hint: ask\n"},
		{"deadline", plain, fmt.Errorf("wait: %w", context.DeadlineExceeded), 9, "bastion: wait: context deadline exceeded\n"},
		{"interrupt", ended(os.Interrupt), context.Canceled, 130, ""},
		{"interrupt, as a cause", ended(os.Interrupt), interrupted{os.Interrupt}, 130, ""},
		{"terminate", ended(syscall.SIGTERM), nil, 143, ""},
		{"failure at the interrupt", ended(os.Interrupt), errors.New("broken"), 130, "bastion: broken\n"},
		{"terminal control", plain, errors.New("a\x1b[2Jb\r\nc"), 1, "bastion: a?[2Jb\n  c\n"},
	} {
		var out bytes.Buffer
		if code := finish(tt.ctx, &out, tt.err); code != tt.code || out.String() != tt.out {
			t.Errorf("%s: %d, %q; want %d, %q", tt.name, code, out.String(), tt.code, tt.out)
		}
	}
}

func TestProgressLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, false)
		p.Step("one")
		p.Step("one")
		<-time.After(stillWaiting + time.Second)
		p.Step("two")
		p.Note("news")
		p.Idle()
		<-time.After(2 * stillWaiting)
		p.Close()
		p.Close()
		p.Step("three")
		p.Note("late")
		want := "bastion: one\nbastion: still waiting: one (15s)\nbastion: two\nbastion: news\n"
		if out.String() != want {
			t.Errorf("got  %q\nwant %q", out.String(), want)
		}
		quiet := newProgress(&out, true)
		quiet.Step("x")
		quiet.Note("x")
		quiet.Idle()
		quiet.Close()
		if out.String() != want {
			t.Errorf("quiet says %q", out.String())
		}
	})
}

func TestProgressLiveLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := &progress{w: &out, live: true, stop: make(chan struct{}), done: make(chan struct{})}
		go p.run()
		p.Step("one")
		<-time.After(redraw + time.Millisecond)
		p.Note("news")
		<-time.After(redraw)
		p.Close()
		want := "\r\x1b[K| one 0s" + "\r\x1b[K/ one 0s" + "\r\x1b[Kbastion: news\n" + "\r\x1b[K- one 0s" + "\r\x1b[K"
		if out.String() != want {
			t.Errorf("got  %q\nwant %q", out.String(), want)
		}
	})
}

func TestLinkWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, false)
		w := &linkWatch{progress: p}
		for _, st := range []tunnel.State{
			{Phase: tunnel.Connecting},
			{Phase: tunnel.Up},
			{Phase: tunnel.Reconnecting, Since: time.Now()},
			{Phase: tunnel.Reconnecting, Since: time.Now(), Attempt: 1, Err: errors.New("no network")},
		} {
			w.state(st)
		}
		<-time.After(2 * time.Second)
		w.state(tunnel.State{Phase: tunnel.Up})
		var events bytes.Buffer
		w.tell(&events, config.Settings{Output: config.Output{Format: "json"}})
		w.path(report.Path{Lost: true, Since: time.Now(), Linger: 30 * time.Minute})
		lost := time.Now()
		<-time.After(10 * time.Second)
		w.path(report.Path{Since: lost, Linger: 30 * time.Minute})
		w.state(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now()})
		<-time.After(time.Second)
		w.state(tunnel.State{Phase: tunnel.Up})
		w.state(tunnel.State{Phase: tunnel.Idle})
		w.state(tunnel.State{Phase: tunnel.Idle, Err: errors.New("the task was stopped")})
		w.state(tunnel.State{Phase: tunnel.Connecting})
		<-time.After(time.Second)
		w.state(tunnel.State{Phase: tunnel.Up})
		p.Close()
		wantEvents := `{"event":"path_lost","at":"2000-01-01T00:00:02Z","linger_seconds":1800}
{"event":"path_restored","at":"2000-01-01T00:00:12Z","after_seconds":10}
{"event":"link_lost","at":"2000-01-01T00:00:12Z"}
{"event":"link_restored","at":"2000-01-01T00:00:13Z","after_seconds":1}
{"event":"link_idle","at":"2000-01-01T00:00:13Z"}
{"event":"link_idle","at":"2000-01-01T00:00:13Z","reason":"the task was stopped"}
{"event":"link_wanted","at":"2000-01-01T00:00:13Z"}
{"event":"link_restored","at":"2000-01-01T00:00:14Z","after_seconds":1}
`
		if events.String() != wantEvents {
			t.Errorf("events %s\nwant %s", events.String(), wantEvents)
		}
		want := "bastion: the link is lost; new connections wait while it is restored\nbastion: restoring the link\n" +
			"bastion: restoring the link, attempt 2: no network\nbastion: the link is restored after 2s\n" +
			"bastion: no path to the bastion; the connection waits (for up to 30m)\n" +
			"bastion: looking for a path to the bastion\nbastion: path restored after 10s\n" +
			"bastion: the link is lost; new connections wait while it is restored\nbastion: restoring the link\n" +
			"bastion: the link is restored after 1s\n" +
			"bastion: nobody uses the link, and the bastion has closed it; the next connection opens it again\n" +
			"bastion: the task was stopped; nothing is started now: the next connection starts another one\n" +
			"bastion: a connection needs the bastion; connecting again\nbastion: the link is restored after 1s\n"
		if out.String() != want {
			t.Errorf("got  %q\nwant %q", out.String(), want)
		}
	})
}

// Why a link waits is an event when it is known and when it changes, whatever waits; what is told again is none.
func TestLinkWatchSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, events bytes.Buffer
		p := newProgress(&out, false)
		w := &linkWatch{progress: p}
		w.tell(&events, config.Settings{Output: config.Output{Format: "json"}})
		denied := fail.New(fail.Denied, "", errors.New("denied"), "ask")
		lost := report.Path{Lost: true, Since: time.Now(), Linger: time.Minute}
		why := lost
		why.Reason, why.Next, why.Retry = "denied", "ask", time.Now().Add(9*time.Second)
		w.path(lost)
		w.path(why)
		w.path(why)
		w.path(report.Path{Since: lost.Since})
		w.path(lost) // the connection goes with its last path, and is restored
		w.state(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now()})
		w.state(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now(), Attempt: 1, Err: denied})
		w.state(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now(), Attempt: 2, Err: denied})
		w.state(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now(), Attempt: 3, Err: errors.New("throttled")})
		w.state(tunnel.State{Phase: tunnel.Up})
		w.path(lost)
		w.path(report.Path{Since: lost.Since})
		w.state(tunnel.State{Phase: tunnel.Draining, Retry: time.Second})
		w.state(tunnel.State{Phase: tunnel.Draining})
		w.state(tunnel.State{Phase: tunnel.Draining, Err: denied, Attempt: 1})
		p.Close()
		var got []string
		for line := range strings.Lines(events.String()) {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, strings.TrimSpace(e.Event+" "+e.Reason+" "+e.Next))
		}
		want := []string{
			"path_lost", "waiting denied ask", "path_restored", "path_lost", "link_lost", "waiting denied ask", "waiting throttled",
			"link_restored", "path_lost", "path_restored", "bastion_draining", "waiting denied ask",
		}
		if !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
		if n := strings.Count(out.String(), "denied (ask)"); n != 4 {
			t.Errorf("the reason and what to do are told %d times:\n%s", n, out.String())
		}
	})
}

// Two runs in one process share nothing: the flags of one are not those of the next.
func TestRunsAreIndependent(t *testing.T) {
	for _, want := range []string{"json", ""} {
		a, _ := testApp()
		args := []string{"bastion", "version"}
		if want != "" {
			args = append(args, "-o", want)
		}
		c := a.cli()
		for _, cmd := range c.Commands {
			cmd.Action = func(*cli.Context) error { return nil }
		}
		sorted, err := a.arrange(args)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Run(sorted); err != nil || a.flags["output"] != want {
			t.Errorf("%v: output %q, %v", args, a.flags["output"], err)
		}
	}
}

// The agent gets nothing of the environment that could be a secret of the command that starts it.
func TestAgentEnviron(t *testing.T) {
	got := agentEnviron([]string{
		"HOME=/h", "PATH=/bin", "PGPASSWORD=secret", "AWS_SECRET_ACCESS_KEY=secret", "BASTION_QUIET=1", "SSH_AUTH_SOCK=/s", "LC_ALL=C",
		"XDG_STATE_HOME=/x", "https_proxy=http://p", "GITHUB_TOKEN=secret", "Path=C:",
	})
	want := []string{"HOME=/h", "PATH=/bin", "LC_ALL=C", "XDG_STATE_HOME=/x", "https_proxy=http://p", "Path=C:"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// However much a file says, what needs trust is shown last, and the question names it.
func TestTrustShowsWhatMatters(t *testing.T) {
	file, err := config.Parse("f", []byte("browser: ./evil\nprofile: "+strings.Repeat("x", 5000)+"\ntags: {a: b}\ntargets: {orders: rds:orders}\n"))
	if err != nil {
		t.Fatal(err)
	}
	out := trustOutput{Targets: map[string]string{"orders": "rds:orders"}}
	for _, g := range file.Given() {
		out.Settings = append(out.Settings, trustSetting{g.Setting.Key, g.Text, g.Where, g.NeedsTrust()})
	}
	var b bytes.Buffer
	if err := out.show(&b); err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`(?s)orders = "rds:orders".*tags = "a=b".*only with your trust:.*profile = "x+".*browser = "\./evil"`)
	if !want.MatchString(b.String()) {
		t.Errorf("shown:\n%s", b.String())
	}
	if q := out.question(); q != "Trust this file as it is now, and let it set profile, browser? [y/N] " {
		t.Errorf("question %q", q)
	}
}

// The agent takes no project file, wherever it starts: systemd starts it in the home directory.
func TestAgentRunTakesNoProjectFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("BASTION_RUNTIME_DIR", filepath.Join(dir, "run"))
	t.Setenv("BASTION_STATE_DIR", filepath.Join(dir, "state"))
	if err := os.WriteFile("bastion.yaml", []byte("verbose: true\nbrowser: ./planted\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, said bytes.Buffer
	std := stdio{in: os.Stdin, out: &out, err: &said}
	if code := run(ctx, []string{"bastion", "agent", "run"}, std); code == 2 || strings.Contains(said.String(), "bastion.yaml") {
		t.Errorf("code %d: %s", code, said.String())
	}
	if code := run(ctx, []string{"bastion", "agent", "status"}, std); code != 2 {
		t.Errorf("a command takes the file: code %d", code)
	}
}

// An address of this machine after a target may be meant as the place to listen.
func TestNotesOfTargets(t *testing.T) {
	addresses := []net.Addr{
		&net.IPNet{IP: net.ParseIP("192.0.2.7"), Mask: net.CIDRMask(24, 32)}, &net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)},
	}
	for args, want := range map[string]string{
		"rds:orders 192.0.2.7:5432":         "-L 192.0.2.7:5432:rds:orders",
		"rds:orders [2001:db8::7]:5432":     "-L [2001:db8::7]:5432:rds:orders",
		"db.internal:1 192.0.2.7:5432":      "-L 192.0.2.7:5432:db.internal:1",
		"rds:orders 192.0.2.8:5432":         "",
		"rds:orders 15432 192.0.2.7:5432":   "",
		"192.0.2.7:5432":                    "",
		"rds:orders cache:sessions":         "",
		"rds:orders 127.0.0.1:5432 cache:x": "",
	} {
		pairs, err := targets.ParsePair(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		notes := notesOfTargets(pairs, addresses)
		if (len(notes) > 0) != (want != "") || len(notes) > 0 && !strings.HasSuffix(notes[0], want) {
			t.Errorf("%s: %q, want %q", args, notes, want)
			continue
		}
		if len(notes) == 0 {
			continue
		}
		_, l, _ := strings.Cut(notes[0], "-L ")
		if _, err := targets.ParseL(l); err != nil {
			t.Errorf("%s: the note's %q is not understood: %v", args, l, err)
		}
	}
}

// A name of the configuration is the forward's name, unless it means all forwards: then the target's is.
func TestForwardRequestNames(t *testing.T) {
	s := config.Settings{Targets: map[string]config.Target{
		"orders": {Spec: "rds:db"}, "_x": {Spec: "rds:db"}, "all": {Spec: "rds:db"},
	}}
	for name, want := range map[string]string{"orders": "orders", "_x": "_x", "all": "", "rds:db": ""} {
		pairs, err := targets.ParsePair([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := forwardRequest(pairs[0], s); err != nil || r.Name != want || r.Target != "rds:db" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}
