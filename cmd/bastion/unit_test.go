package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

func testApp() (*app, *bytes.Buffer) {
	var out bytes.Buffer
	return &app{stdio: stdio{out: &out, err: &out}, flags: make(map[string]string)}, &out
}

func TestFlagsFirst(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"forward rds 1 --region x", "forward --region x -- rds 1"},
		{"forward rds --region=x 1 -q", "forward --region=x -q -- rds 1"},
		{"--region x forward rds", "--region x forward -- rds"},
		{"forward -L 1:a:2 -L 3:b:4", "forward -L 1:a:2 -L 3:b:4"},
		{"forward -o json rds", "forward -o json -- rds"},
		{"forward -- --odd", "forward -- --odd"},
		{"forward --assign-public-ip rds", "forward --assign-public-ip -- rds"},
		{"status", "status"},
		{"forward rds :", "forward -- rds :"},
		{"nonsense --x y", "nonsense --x y"},
		{"-- forward", "-- forward"},
		{"forward --unknown rds", "forward --unknown -- rds"},
	} {
		a, _ := testApp()
		got, err := flagsFirst(a.cli(), append([]string{"bastion"}, strings.Fields(tt.in)...))
		if err != nil || strings.Join(got[1:], " ") != tt.want {
			t.Errorf("%s: got %q, %v; want %q", tt.in, got[1:], err, tt.want)
		}
	}
}

// Each command says what it does, by examples that are well-formed command lines.
func TestEveryCommandHasExamples(t *testing.T) {
	a, _ := testApp()
	c := a.cli()
	for _, cmd := range c.Commands {
		_, examples, ok := strings.Cut(cmd.Description, "Examples:\n")
		if !ok || !strings.Contains(examples, "bastion") {
			t.Errorf("%s has no examples", cmd.Name)
		}
		for line := range strings.Lines(examples) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "  #")
			for _, command := range regexp.MustCompile(`[;|&]+`).Split(line, -1) {
				command, _, _ = strings.Cut(command, " -- ") // another program's
				words := strings.Fields(command)
				if len(words) < 2 || words[0] != "bastion" {
					continue // of another program
				}
				of := c.Command(words[1])
				if of == nil {
					t.Errorf("%s: the example %q is of no command", cmd.Name, line)
					continue
				}
				for _, w := range words {
					if strings.HasPrefix(w, "-") && findFlag(of.Flags, strings.TrimLeft(w, "-")) == nil {
						t.Errorf("%s: the example %q has an unknown option", cmd.Name, line)
					}
				}
			}
		}
	}
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

func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, false)
		log := slog.New(&noticeHandler{progress: p}).With("listen", "127.0.0.1:1")
		log.Info("not shown", "dest", "x")
		log.Warn("connection not opened", "dest", "a.b:1", "err", errors.New("refused"), "next", "ask")
		log.Warn("connection lost", "dest", "a.b:1", "err", errors.New("read a.b:1: reset"))
		p.Close()
		want := "bastion: connection not opened to a.b:1: refused\n  hint: ask\nbastion: connection lost: read a.b:1: reset\n"
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
		w.tell(&events, config.Settings{Output: "json"})
		w.path(agent.Path{Lost: true, Since: time.Now(), Linger: 30 * time.Minute})
		lost := time.Now()
		<-time.After(10 * time.Second)
		w.path(agent.Path{Since: lost, Linger: 30 * time.Minute})
		w.state(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now()})
		<-time.After(time.Second)
		w.state(tunnel.State{Phase: tunnel.Up})
		w.state(tunnel.State{Phase: tunnel.Idle})
		p.Close()
		wantEvents := `{"event":"path_lost","at":"2000-01-01T00:00:02Z","linger_seconds":1800}
{"event":"path_restored","at":"2000-01-01T00:00:12Z","after_seconds":10}
{"event":"link_lost","at":"2000-01-01T00:00:12Z"}
{"event":"link_restored","at":"2000-01-01T00:00:13Z","after_seconds":1}
{"event":"link_idle","at":"2000-01-01T00:00:13Z"}
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
			"bastion: the bastion has gone; the next connection starts another one\n"
		if out.String() != want {
			t.Errorf("got  %q\nwant %q", out.String(), want)
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
		sorted, err := flagsFirst(c, args)
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
