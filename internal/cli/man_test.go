package cli

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
)

func testManual() Manual {
	p := testProgram()
	p.Root.About = []Passage{Para("It does it."), Para(".Dots begin lines, - too: 'a\\b'.")}
	return Manual{
		Program: p, Date: "2000-01-02", Version: "v1", Files: []Term{{"~/.bastion", "A file."}},
		Environment: []Term{{"A, B, ...", "What they do."}}, ExitStatus: []Term{{"0", "Success."}, {"1", "Failure."}},
	}
}

// A page of a command has its sections in the order of man-pages(7), and what the table says in each.
func TestManualPage(t *testing.T) {
	want := `.TH BASTION\-FORWARD 1 "2000-01-02" "bastion v1" "bastion manual"
.SH NAME
bastion\-forward \- forward ports
.SH SYNOPSIS
\fBbastion forward\fR [options] SPEC...
.SH DESCRIPTION
It forwards.
.TP
\fBSPEC\fR
what
.IP \(bu 2
one
.IP \(bu 2
two
.SH OPTIONS
.TP
\fB\-L\fR \fIFORM\fR
as ssh \-L.
.TP
\fB\-\-name\fR \fINAME\fR
its name.
.SS "AWS account"
`
	page := testManual().Command(testProgram().Root.Verb("forward"))
	if !strings.HasPrefix(page, want) {
		t.Errorf("got\n%s\nwant\n%s", page, want)
	}
	want = `.PP
Every setting is an option of every command; bastion(1) lists them.
.SH EXIT STATUS
.TP
\fB0\fR
Success.
.TP
\fB1\fR
Failure.
.SH EXAMPLES
.nf
bastion forward x
.fi
.SH SEE ALSO
\fBbastion\fR(1), \fBssh_config\fR(5)
`
	if !strings.HasSuffix(page, want) {
		t.Errorf("got\n%s\nwant\n%s", page, want)
	}
}

// The program's page lists each command once, under its group, every setting with its variable and key, and refers to every other page.
func TestManualOverview(t *testing.T) {
	m := testManual()
	page := m.Overview()
	at := -1
	for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "SETTINGS", "FILES", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES", "SEE ALSO"} {
		next := strings.Index(page, "\n.SH "+section+"\n")
		if next <= at {
			t.Errorf("section %s at %d, after %d", section, next, at)
		}
		at = next
	}
	for _, cmd := range m.Program.Root.Listed() {
		if n := strings.Count(page, "\n.TP\n"+`\fBbastion\-`+cmd.Name+`\fR(1)`+"\n"+cmd.Summary+"\n"); n != 1 {
			t.Errorf("%s is there %d times", cmd.Name, n)
		}
	}
	if connect, other := strings.Index(page, `.SS "Connect"`), strings.Index(page, `.SS "Other"`); connect < 0 || other < connect {
		t.Errorf("groups at %d and %d", connect, other)
	}
	for _, s := range config.All() {
		if n := strings.Count(page, "\n.br\nVariable "+bold(s.Env())+", key "+bold(s.Key)+".\n"); n != 1 {
			t.Errorf("%s is there %d times", s.Key, n)
		}
	}
	_, see, _ := strings.Cut(page, "\n.SH SEE ALSO\n")
	refs := regexp.MustCompile(`\\fBbastion\\-([a-z]+)\\fR\(1\)`).FindAllStringSubmatch(see, -1)
	var names []string
	for _, r := range refs {
		names = append(names, r[1])
	}
	if !slices.IsSorted(names) || len(names) != len(m.Program.Root.Listed()) || !strings.HasSuffix(see, ",\n"+`\fBssh_config\fR(5)`+"\n") {
		t.Errorf("see also: %s", see)
	}
	if !strings.Contains(page, "\nIt does it.\n.PP\n\\&.Dots begin lines, \\- too: \\(aqa\\eb\\(aq.\n") {
		t.Errorf("the description:\n%s", page[:600])
	}
}

// A page of a command with subcommands has theirs, without the hidden ones, each with its options; examples are left out where
// there are none.
func TestManualSubcommands(t *testing.T) {
	m := testManual()
	page := m.Command(m.Program.Root.Verb("agent"))
	for _, want := range []string{
		"\n.SH SYNOPSIS\n\\fBbastion agent\\fR run|start [options]\n",
		"\n.SS \"bastion agent run\"\nServe.\n.TP\n\\fB\\-\\-log\\-file\\fR \\fIFILE\\fR\nlog.\n.TP\n\\fB\\-y\\fR, \\fB\\-\\-stay\\fR\nstay.\n",
		"\n.SS \"bastion agent start\"\nStart it.\n.SH OPTIONS\nEvery setting",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
	if strings.Contains(page, "EXAMPLES") {
		t.Errorf("examples:\n%s", page)
	}
	if page := m.Command(m.Program.Root.Verb("service")); strings.Contains(page, "service run") ||
		!strings.Contains(page, `.SS "bastion service install"`) {
		t.Errorf("the hidden one:\n%s", page)
	}
	// The settings of subcommands are options of the command, once.
	ls := m.Program.Root.Verb("ls")
	ls.Settings, ls.Verbs[0].Settings, ls.Verbs[1].Settings = []string{config.GroupAWS}, []string{config.GroupOutput}, []string{config.GroupAWS, config.GroupOutput}
	page = m.Command(ls)
	for _, option := range []string{"region", "output"} {
		if n := strings.Count(page, `\fB\-\-`+option+`\fR`); n != 1 {
			t.Errorf("--%s is there %d times", option, n)
		}
	}
}

// No line of running text is longer than some readers of the source take, and none of the text becomes a request of roff.
func TestManualText(t *testing.T) {
	var p page
	p.text(strings.Repeat("well-known ", 30) + strings.Repeat("x", 100) + " end")
	for line := range strings.Lines(p.String()) {
		if n := len(strings.TrimSuffix(line, "\n")); n > textWidth && n != 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if got := strings.Join(strings.Fields(strings.ReplaceAll(p.String(), `\-`, "-")), " "); got != strings.Repeat("well-known ", 30)+strings.Repeat("x", 100)+" end" {
		t.Errorf("the text: %s", got)
	}
	for _, page := range []string{testManual().Overview(), testManual().Command(testProgram().Root.Verb("forward"))} {
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, ".") && !regexp.MustCompile(`^\.(TH|SH|SS|TP|IP|PP|nf|fi|br)\b`).MatchString(line) ||
				strings.HasPrefix(line, "'") {
				t.Errorf("a request: %s", line)
			}
		}
	}
}
