package cli

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// testOptions are what the options of testProgram's commands fill in.
type testOptions struct {
	local []string
	name  string
	stay  bool
}

func (o *testOptions) add(v string) error {
	if v == "refused" {
		return fail.Usagef("write another", "it is refused")
	}
	o.local = append(o.local, v)
	return nil
}

// testProgram is a program with a command of each form. Its commands note how they are called.
func testProgram() *Program {
	p := &Program{
		Groups: []string{"Connect", "Other"}, Settings: make(map[string]string), Out: new(bytes.Buffer), Err: new(bytes.Buffer),
		Values:  func(string) []Candidate { return Words("one", "two") },
		Default: func() error { return errors.New("by default") },
	}
	p.Root = testTable(new(testOptions), func(string, []string) {})
	return p
}

func testTable(o *testOptions, ran func(command string, args []string)) *Command {
	note := func(name string) func(context.Context, []string) error {
		return func(_ context.Context, args []string) error { ran(name, args); return nil }
	}
	verb := func(name, summary string, flags ...Option) *Command {
		return &Command{Name: name, Summary: summary, Flags: flags, Run: note(name)}
	}
	return &Command{
		Name: "bastion", Summary: "do it", Examples: []string{"bastion forward x"}, Verbs: []*Command{
			{
				Name: "forward", Summary: "forward ports", Group: "Connect", Args: "SPEC...", MinArgs: 1, MaxArgs: 3, Run: note("forward"),
				About:    []Passage{Para("It forwards."), Terms("SPEC", "what"), Items("one", "two")},
				Flags:    []Option{Func("FORM", "as ssh -L", o.add, "L"), Text(&o.name, "NAME", "its name", "name")},
				Examples: []string{"bastion forward x"}, Settings: []string{config.GroupAWS},
				Complete: func(args []string) []Candidate { return Words("spec" + strings.Join(args, "")) },
			},
			{Name: "status", Summary: "show", Group: "Other", Run: note("status")},
			{Name: "exec", Summary: "run", Group: "Other", Args: "SPEC -- PROGRAM", MaxArgs: AnyNumber, Divided: true, Run: note("exec")},
			{
				Name: "agent", Summary: "the agent", Group: "Other",
				Verbs: []*Command{
					verb("run", "serve", Text(&o.name, "FILE", "log", "log-file"), Switch(&o.stay, "stay", "stay", "y")),
					verb("start", "start it"),
				},
			},
			{Name: "ls", Summary: "list", Group: "Other", Usual: "forwards", Verbs: []*Command{verb("forwards", "them"), verb("targets", "these")}},
			{Name: "service", Summary: "serve", Group: "Other", Verbs: []*Command{{Name: "run", Summary: "run", Hidden: true}, verb("install", "write")}},
			{Name: "version", Summary: "print it", Group: "Other", Run: note("version")},
		},
	}
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
		p := testProgram()
		got, err := p.Arrange(append([]string{"bastion"}, strings.Fields(tt.in)...))
		if err != nil || strings.Join(got[1:], " ") != tt.want {
			t.Errorf("%s: got %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
	for in, want := range map[string]string{
		"nonsense --help": `unknown command "nonsense"`, "agent stat --help": `unknown subcommand "stat"`,
		"agent": "agent: a subcommand is missing", "forward --region": "the option --region needs a value",
	} {
		p := testProgram()
		if got, err := p.Arrange(append([]string{"bastion"}, strings.Fields(in)...)); err == nil || err.Error() != want {
			t.Errorf("%s: got %q, %v; want %q", in, got, err, want)
		}
	}
}

// The options fill in their structs and the settings, and the arguments are counted before the command runs.
func TestRun(t *testing.T) {
	for line, want := range map[string]string{
		"forward a b --name n -L 1 -L 2 --region x": "forward a b", "agent run --stay": "run", "ls": "forwards", "exec a -- b -y": "exec a -- b -y",
		"status x": "error: status: too many arguments (usage: bastion status)", "": "error: by default",
		"forward": "error: forward: arguments are missing (usage: bastion forward SPEC...)", "agent start -y": "error: unknown option -y",
		"agent run x": "error: agent run: too many arguments (usage: bastion agent run)", "-- x": `error: unknown command "x"`,
		"forward --nam x": "error: unknown option --nam", "status --regoin x": "error: unknown option --regoin (did you mean --region?)",
	} {
		p, o, got := testProgram(), new(testOptions), ""
		p.Root = testTable(o, func(command string, args []string) { got = strings.TrimSpace(command + " " + strings.Join(args, " ")) })
		if err := p.Run(t.Context(), append([]string{"bastion"}, strings.Fields(line)...)); err != nil {
			got = "error: " + err.Error()
			if strings.Contains(want, "(") {
				got += " (" + fail.NextOf(err) + ")"
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
		switch strings.Fields(line + " -")[0] {
		case "forward":
			if want[:5] != "error" && (o.name != "n" || !slices.Equal(o.local, []string{"1", "2"}) || p.Settings["region"] != "x") {
				t.Errorf("%s: %+v, %v", line, o, p.Settings)
			}
		case "agent":
			if o.stay != (line == "agent run --stay") {
				t.Errorf("%s: %+v", line, o)
			}
		}
	}
}

// The list of commands has the groups in their order, and none that is hidden; a page has what the table says.
func TestHelpAndManual(t *testing.T) {
	p := testProgram()
	root := p.Help(p.Root, "bastion")
	if connect, other := strings.Index(root, " Connect\n  forward"), strings.Index(root, " Other\n  status"); connect < 0 || other < connect {
		t.Errorf("%s", root)
	}
	service := p.Root.Verb("service")
	if text := p.Help(service, "bastion service"); strings.Contains(text, "  run") || !strings.Contains(text, "  install  write\n") {
		t.Errorf("%s", text)
	}
	m := Manual{
		Program:     p,
		Date:        "2000-01-02",
		Version:     "v1",
		Environment: []Term{{"A, B, ...", "what"}},
		ExitStatus:  []Term{{"0", "Success."}},
	}
	for page, wants := range map[string][]string{
		m.Overview():                      {`.TH BASTION 1 "2000-01-02" "bastion v1" "bastion manual"`, `\fBA\fR, \fBB\fR, ...`, `\fBbastion\-forward\fR(1)`},
		m.Command(p.Root.Verb("forward")): {`.IP \(bu 2`, `\fB\-\-name\fR \fINAME\fR`, `\fB\-\-region\fR`, "bastion forward x", ".SH EXIT STATUS"},
		m.Command(p.Root.Verb("agent")):   {`.SS "bastion agent start"`, `\fB\-y\fR, \fB\-\-stay\fR`},
	} {
		for _, want := range wants {
			if !strings.Contains(page, want) {
				t.Errorf("no %s in\n%s", want, page)
			}
		}
	}
}

// Completion knows where in the command line it is.
func TestComplete(t *testing.T) {
	for line, want := range map[string]string{
		"for": "forward", "forward ": "spec", "forward a ": "speca", "forward --name ": "", "forward --region t": "two", "agent ": "run start",
		"exec -- ": "", "nonsense ": "", "forward --na": "--name", "service ": "install", "agent r": "run",
	} {
		p := testProgram()
		var out bytes.Buffer
		p.Complete(&out, strings.Split(line, " "))
		var got []string
		for l := range strings.Lines(out.String()) {
			value, _, _ := strings.Cut(l, "\t")
			got = append(got, value)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if script, ok := testProgram().CompletionScript("bash"); !ok || !strings.HasSuffix(script, "\ncomplete -o default -F _bastion bastion\n") {
		t.Errorf("%t, %s", ok, script)
	}
}

func TestEscapeForRoff(t *testing.T) {
	for in, want := range map[string]string{
		`a\b`: `a\eb`, ".x\n'y": `\&.x` + "\n" + `\(aqy`, "--x": `\-\-x`, `"~^` + "`": `\(dq\(ti\(ha\(ga`,
	} {
		if got := escape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// What an option refuses names the option and the reason; one that does not exist is compared with those of its command.
func TestOptionErrors(t *testing.T) {
	for line, want := range map[string]string{
		"agent run --stay=1":          "",
		"agent run --stay=FALSE":      "",
		"agent run --stay=maybe":      `--stay: "maybe" is neither true nor false`,
		"agent run -y --stay":         "-y and --stay are the same option|give one of the two",
		"agent run --sty":             "unknown option --sty|did you mean --stay?",
		"agent run --log-fil x":       "unknown option --log-fil|did you mean --log-file?",
		"forward -L refused y":        "-L: it is refused|write another",
		"forward --nam x y":           "unknown option --nam|did you mean --name?",
		"forward --sesions 3 x":       "unknown option --sesions|did you mean --sessions?",
		"forward --nothing-like-it x": "unknown option --nothing-like-it|bastion forward --help lists the options",
	} {
		var o testOptions
		p := testProgram()
		ran := false
		p.Root = testTable(&o, func(string, []string) { ran = true })
		err := p.Run(t.Context(), append([]string{"bastion"}, strings.Fields(line)...))
		text, next, _ := strings.Cut(want, "|")
		if (err == nil) != (want == "") || err != nil && (err.Error() != text || !strings.Contains(fail.NextOf(err), next)) ||
			ran != (err == nil) {
			t.Errorf("%s: %v (%s); want %q", line, err, fail.NextOf(err), want)
		}
		if err == nil && o.stay != strings.HasSuffix(line, "1") {
			t.Errorf("%s: %t", line, o.stay)
		}
	}
}
