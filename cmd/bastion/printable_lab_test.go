package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/configure"
	"github.com/bastion-ssm/bastion/internal/inventory"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/lab"
)

// hostile has a member of each class of text that a terminal must not show, and lines that could pose as bastion's.
const hostile = "h\x1b[2J\x1b]0;title\x07\x7f\u0085\u009b31m\u202e\u2066\u200f\u061c\u200b\u200d\u00ad\ufeff\u2028\u2029\u00a0\u3164" +
	"\ue000\U000e0041\ufe0fh\r\nbastion: forged\nforged\tcell"

// notUTF8 can come from files, arguments and variables; AWS's forms exclude it.
const notUTF8 = "\xff\xc3(\xe2\x80"

// inXML is hostile as XML can say it.
var inXML = strings.NewReplacer("\x1b", "\ufffd", "\x07", "\ufffd").Replace(hostile)

// harmless runs a command line whose output must contain the text ("h" begins and ends the hostile part) and nothing that draws.
func (e *labEnv) harmless(env []string, args ...string) result {
	e.t.Helper()
	return e.checked(e.run(env, args...), args)
}

// harmlessHere is harmless in this process. The test must not be parallel.
func (e *labEnv) harmlessHere(env []string, args ...string) result {
	e.t.Helper()
	return e.checked(e.here(env, args...), args)
}

func (e *labEnv) checked(r result, args []string) result {
	e.t.Helper()
	for name, out := range map[string]string{"stdout": r.stdout, "stderr": r.stderr} {
		checkHarmless(e.t, strings.Join(args, " ")+": "+name, out)
	}
	return r
}

func checkHarmless(t *testing.T, what, out string) {
	t.Helper()
	for _, c := range strings.ToValidUTF8(out, "\x00") {
		if c != '\n' && (!unicode.IsPrint(c) || strings.ContainsRune("\u3164\ufe0f", c)) {
			t.Errorf("%q has %U: %q", what, c, out)
			return
		}
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "forged") || strings.HasPrefix(line, "bastion: forged") {
			t.Errorf("%q has the line %q: %q", what, line, out)
		}
	}
}

// said checks that the output has the hostile text, in its harmless form: else the test would show nothing.
func said(t *testing.T, what, out string) {
	t.Helper()
	if !strings.Contains(out, "forged") {
		t.Errorf("%q does not say the text: %q", what, out)
	}
}

// Whatever AWS answers, no command lets it draw on the terminal or pose as a line of bastion's.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	up := []string{"up"}
	forward := []string{"forward", "--no-agent", "rds:orders", ":"}
	for _, c := range []struct {
		action   string
		commands [][]string
	}{
		{"ecs:RunTask", [][]string{up, forward}}, // while none runs
		{"sts:GetCallerIdentity", [][]string{{"status"}, up, forward, {"down"}}},
		{"ecs:ListTasks", [][]string{{"status"}, up, {"down"}, {"ls", "bastions"}}},
		{"ecs:ExecuteCommand", [][]string{up, forward}},
		{"ssm:StartSession", [][]string{forward, {"exec", "--no-agent", "rds:orders", "--", "true"}}},
		{"rds:DescribeDBInstances", [][]string{{"ls", "targets", "--refresh"}, forward, {"token", "rds:orders", "--user", "jo"}}},
		{"elasticache:DescribeReplicationGroups", [][]string{{"ls", "targets", "--refresh"}}},
	} {
		if err := e.SetAPIFaults(lab.APIFaults{Errors: map[string]lab.APIError{
			c.action: {Code: "InvalidParameterException", Message: hostile},
		}}); err != nil {
			t.Fatal(err)
		}
		for _, command := range c.commands {
			for _, more := range [][]string{nil, {"-o", "json"}, {"--verbose"}} {
				args := slices.Concat(command[:1], more, command[1:])
				r := e.harmless(nil, args...)
				said(t, c.action+": "+strings.Join(args, " "), r.stderr)
			}
		}
	}
	if err := e.SetAPIFaults(lab.APIFaults{}); err != nil {
		t.Fatal(err)
	}
	e.must("down")
	if err := e.SetAPIFaults(lab.APIFaults{TaskFailures: -1, TaskReason: hostile}); err != nil {
		t.Fatal(err)
	}
	said(t, "stopped reason", e.harmless(nil, "up").stderr)
}

// Names and tags that others choose are shown harmless in text, and are exact data in JSON.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	if err := e.AddDBInstance(lab.DBInstance{ID: hostile, Engine: hostile}); err != nil {
		t.Fatal(err)
	}
	said(t, "ls targets", e.harmless(nil, "ls", "targets", "--refresh").stdout)
	r := e.harmless(nil, "ls", "targets", "-o", "json", "--refresh")
	var listed struct{ Targets []inventory.Line }
	if err := json.Unmarshal([]byte(r.stdout), &listed); err != nil ||
		!slices.ContainsFunc(listed.Targets, func(l inventory.Line) bool { return l.Spec == "rds:"+strings.ToLower(inXML) && l.Engine == inXML }) {
		t.Errorf("ls targets: %v\n%s", err, r.stdout)
	}

	evil := e.runTask(e.marked(e.Env(), func(in *ecs.RunTaskInput) {
		in.Overrides = &ecstypes.TaskOverride{ContainerOverrides: []ecstypes.ContainerOverride{{
			Name: aws.String("bastion"), Environment: []ecstypes.KeyValuePair{{Name: aws.String(hostile), Value: aws.String(hostile)}},
		}}}
	}))
	said(t, "status", e.harmless(nil, "status").stdout)
	r = e.harmless(nil, "status", "-o", "json")
	var st report.Status
	if err := json.Unmarshal([]byte(r.stdout), &st); err != nil || len(st.Bastions) != 1 || !strings.Contains(st.Bastions[0].Refused, hostile) {
		t.Errorf("status: %v\n%s", err, r.stdout)
	}
	if r := e.harmless(nil, "up"); r.code != 0 || !strings.Contains(r.stderr, evil) {
		t.Errorf("up %d: %s%s", r.code, r.stdout, r.stderr)
	}
	said(t, "down", e.harmless(nil, "down").stdout)
}

// Files, variables and arguments that somebody else wrote.
func TestHostileFiles(t *testing.T) {
	e := startLab(t, nil)
	dir := filepath.Join(t.TempDir(), strings.ReplaceAll(hostile, "/", "")+notUTF8)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	quote := func(text string) string {
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		return string(quoted)
	}
	quoted, line := quote(hostile), strings.NewReplacer("\r", "", "\n", "").Replace(hostile)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	project := write("bastion.yaml", "browser: "+quote(line)+"\ntargets:\n  orders: db.corp.internal:5432\n")
	said(t, "trust", e.harmlessHere(nil, "trust", "--yes", dir).stdout)
	said(t, "trust --list", e.harmlessHere(nil, "trust", "--list").stdout)
	r := e.harmlessHere(nil, "trust", "--yes", "-o", "json", project)
	var trusted configure.TrustOutput
	if err := json.Unmarshal([]byte(r.stdout), &trusted); err != nil || len(trusted.Settings) != 1 || trusted.Settings[0].Value != line {
		t.Errorf("trust: %v\n%s%s", err, r.stdout, r.stderr)
	}
	for name, text := range map[string]string{
		"a key":         quoted + ": 1\n",
		"a value":       "sessions: " + quoted + "\n",
		"a target":      "targets:\n  orders: " + quoted + "\n",
		"a target name": "targets:\n  " + quoted + ": db:5432\n",
		"not UTF-8":     "region: forged" + notUTF8 + "\n",
		"not YAML":      "forged: [" + notUTF8 + hostile + "\n",
	} {
		path := write("other.yaml", text)
		for _, command := range [][]string{{"ls", "targets", "--refresh"}, {"status"}, {"forward", "orders"}, {"url", "orders"}} {
			r := e.harmlessHere(nil, append([]string{command[0], "--config", path}, command[1:]...)...)
			if r.code == 2 {
				said(t, name, r.stderr)
			}
		}
		out := e.here(nil, cli.CompleteCommand, "forward", "--config", path, "")
		checkHarmless(t, "completion", strings.ReplaceAll(out.stdout, "\t", " "))
	}
	bad := hostile + notUTF8
	for _, args := range [][]string{
		{bad},
		{"status", "--" + bad},
		{"status", bad},
		{"help", bad},
		{"forward", bad},
		{"forward", "rds:" + bad},
		{"url", bad},
		{"url", "orders", "--format", bad},
		{"token", bad},
		{"stop", bad},
		{"exec", "db:5432", "--", bad},
		{"agent", bad},
		{"completion", bad},
		{"trust", bad},
		{"status", "--region", bad},
		{"status", "--profile", bad},
		{"browser", bad},
		{"proxy", bad},
		{"socks", "--listen", bad},
		{"man", bad},
	} {
		if r := e.harmlessHere(nil, args...); r.code == 0 {
			t.Errorf("%q: exit code 0", args)
		}
	}
	r = e.harmlessHere([]string{"BASTION_REGIO\u009b=x"}, "status")
	if !strings.Contains(r.stderr, "BASTION_REGIO?") {
		t.Errorf("the variable is not named: %s", r.stderr)
	}
}

// A stream of bytes is not text: programs receive and send every byte.
func TestBytesStayExact(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	path := filepath.Join(t.TempDir(), "bytes")
	if err := os.WriteFile(path, slices.Concat(all, []byte(hostile+notUTF8)), 0o600); err != nil {
		t.Fatal(err)
	}
	p, forwards := e.forwards(nil, "cache:sessions", ":")
	defer e.stop(p, syscall.SIGINT, 130)
	if err := ping(forwards[0].Listen); err != nil {
		t.Fatal(err)
	}
	r := e.must("exec", "--no-agent", "cache:sessions", "--", "sh", "-c", `cat "$0"; cat "$0" >&2`, path)
	if want := string(all) + hostile + notUTF8; r.stdout != want || !strings.HasSuffix(r.stderr, want) {
		t.Errorf("exec gives %q and %q", r.stdout, r.stderr)
	}
	for _, shell := range cli.Shells {
		a, _ := testApp()
		if script, ok := a.Line.CompletionScript(shell); !ok || e.must("completion", shell).stdout != script {
			t.Errorf("the script of %s is another", shell)
		}
	}
}
