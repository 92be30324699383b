package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/bastion-ssm/bastion/internal/admin"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/doctor"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/process"
)

func testApp() (*app, *bytes.Buffer) {
	var out bytes.Buffer
	return newApp(invocation.Stdio{Out: &out, Err: &out}), &out
}

// eachCommand calls do for every command and subcommand.
func eachCommand(c *cli.Command, path string, do func(c *cli.Command, path string)) {
	do(c, path)
	for _, v := range c.Verbs {
		eachCommand(v, path+" "+v.Name, do)
	}
}

// Each command says what it does, by examples that are well-formed command lines.
func TestEveryCommandHasExamples(t *testing.T) {
	a, _ := testApp()
	root := a.Line.Root
	eachCommand(root, root.Name, func(cmd *cli.Command, path string) {
		if len(cmd.Examples) == 0 || len(cmd.Examples) > 3 && cmd != root {
			t.Errorf("%s has %d examples", path, len(cmd.Examples))
		}
		for _, line := range cmd.Examples {
			line, _, _ := strings.Cut(line, "  #")
			for _, part := range regexp.MustCompile(`[;|&]+`).Split(line, -1) {
				part, _, _ = strings.Cut(part, " -- ") // another program's
				words := strings.Fields(part)
				if len(words) < 2 || words[0] != "bastion" {
					continue // of another program
				}
				if _, err := a.Line.Arrange(words); err != nil {
					t.Errorf("%s: the example %q: %v", path, line, err)
					continue
				}
				of := root
				for _, w := range words[1:] {
					if v := of.Verb(w); v != nil {
						of = v
					}
				}
				for _, w := range words {
					if cli.IsOption(w) && cli.FindOption(a.Line.Options(of), strings.TrimLeft(w, "-")) == nil {
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
	codes := []int{0, admin.ExitChanges, doctor.ExitWarnings, 129, 130, 143}
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

func (e awsError) Error() string { return e.code }

func (e awsError) ErrorCode() string { return e.code }

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
		cancel(process.Interrupted{Signal: sig})
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
		{"interrupt, as a cause", ended(os.Interrupt), process.Interrupted{Signal: os.Interrupt}, 130, ""},
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
	std := invocation.Stdio{In: os.Stdin, Out: &out, Err: &said}
	if code := run(ctx, []string{"bastion", "agent", "run"}, std); code == 2 || strings.Contains(said.String(), "bastion.yaml") {
		t.Errorf("code %d: %s", code, said.String())
	}
	if code := run(ctx, []string{"bastion", "agent", "status"}, std); code != 2 {
		t.Errorf("a command takes the file: code %d", code)
	}
}

// Two runs in one process share nothing: the options of one are not those of the next.
func TestRunsAreIndependent(t *testing.T) {
	t.Setenv("BASTION_CONFIG", os.DevNull)
	for _, tt := range []struct {
		args []string
		json bool
	}{{[]string{"bastion", "version", "-o", "json"}, true}, {[]string{"bastion", "version"}, false}} {
		var out, stderr syncBuilder
		if code := run(t.Context(), tt.args, invocation.Stdio{In: os.Stdin, Out: &out, Err: &stderr}); code != 0 || json.Valid([]byte(out.String())) != tt.json {
			t.Errorf("%v: %d, %q, %q", tt.args, code, out.String(), stderr.String())
		}
	}
}
