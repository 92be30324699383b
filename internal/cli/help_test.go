package cli

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
)

// Help of a command is what the table has of it, in this order and layout.
func TestHelpPage(t *testing.T) {
	p := testProgram()
	want := `bastion forward - forward ports

Usage: bastion forward [options] SPEC...

It forwards.

  SPEC  what

  - one
  - two

Examples:
  bastion forward x

Options:
  -L FORM      as ssh -L
  --name NAME  its name

Settings, which are options too:
  AWS account  -e/--environment, --profile, --region, --aws-timeout, --mfa-command

bastion help settings explains all settings.
`
	if got := p.Help(p.Root.Verb("forward"), "bastion forward"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Usage says what a command needs, whether it is the program, has subcommands or runs one of them if none is given.
func TestUsage(t *testing.T) {
	p := testProgram()
	for path, tt := range map[string]struct{ usage, last string }{
		"bastion":         {"bastion COMMAND [options] [arguments]", "bastion COMMAND --help explains a command; bastion help settings explains the settings."},
		"bastion forward": {"bastion forward [options] SPEC...", "bastion help settings explains all settings."},
		"bastion status":  {"bastion status [options]", "bastion help settings explains all settings."},
		"bastion agent": {
			"bastion agent run|start [options]", "bastion agent COMMAND --help explains a subcommand; bastion help settings explains all settings.",
		},
		"bastion ls": {
			"bastion ls [forwards|targets] [options]", "bastion ls COMMAND --help explains a subcommand; bastion help settings explains all settings.",
		},
		"bastion service": {
			"bastion service install [options]", "bastion service COMMAND --help explains a subcommand; bastion help settings explains all settings.",
		},
	} {
		cmd, called, err := p.Root.Find(strings.Fields(path)[1:])
		if err != nil || called != path {
			t.Errorf("%s: found %q, %v", path, called, err)
			continue
		}
		page := p.Help(cmd, called)
		if !strings.Contains(page, "\nUsage: "+tt.usage+"\n") || !strings.HasSuffix(page, "\n\n"+tt.last+"\n") {
			t.Errorf("%s:\n%s", path, page)
		}
	}
}

// A term that fits has its meaning beside it, in a column that the longest of them sets. A longer one has it below.
func TestHelpTerms(t *testing.T) {
	var h helpPage
	h.terms([]Term{{"a", "one"}, {"medium", "two"}, {strings.Repeat("x", termColumn), "three"}, {strings.Repeat("y", termColumn+1), "four"}})
	want := "" +
		"  a                           one\n" +
		"  medium                      two\n" +
		"  xxxxxxxxxxxxxxxxxxxxxxxxxx  three\n" +
		"  yyyyyyyyyyyyyyyyyyyyyyyyyyy\n" +
		"                              four\n"
	if got := h.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	h.Reset()
	h.terms([]Term{{strings.Repeat("y", 60), "four"}})
	if got, want := h.String(), "  "+strings.Repeat("y", 60)+"\n    four\n"; got != want {
		t.Errorf("a long one alone: got\n%swant\n%s", got, want)
	}
}

// Running text ends before the last column, at a word, and goes on at its indent. A word that is longer than a line is not cut.
func TestHelpFill(t *testing.T) {
	full := strings.Repeat("a", helpWidth-4-6) // with the next word, a line
	long := strings.Repeat("b", helpWidth+1)
	for in, want := range map[string]string{
		"":                          "\n",
		"  two \n  words\t":         "two words\n",
		full + " 12345":             full + " 12345\n",
		full + " 123456":            full + "\n    123456\n",
		"one " + long + " two":      "one\n    " + long + "\n    two\n",
		strings.Repeat("word ", 40): strings.TrimSpace(strings.Repeat("word ", 19)) + "\n    " + strings.TrimSpace(strings.Repeat("word ", 19)) + "\n    word word\n",
	} {
		var h helpPage
		h.fill(4, in)
		if got := h.String(); got != want {
			t.Errorf("%q:\n got %q\nwant %q", in, got, want)
		}
	}
}

// The table of settings has every setting once, in its group, with its three names, what it means and its default. No line is too wide for
// a terminal.
func TestSettingsHelp(t *testing.T) {
	page := SettingsHelp()
	at := 0
	for _, group := range config.Groups() {
		head := strings.Index(page[at:], "\n\n"+group+"\n")
		if head < 0 {
			t.Fatalf("no group %s after byte %d", group, at)
		}
		at += head
	}
	group := func(name string) string {
		_, rest, _ := strings.Cut(page, "\n\n"+name+"\n")
		text, _, _ := strings.Cut(rest, "\n\n")
		return text + "\n"
	}
	for _, s := range config.All() {
		head := "--" + s.Flag()
		if s.Short != "" {
			head = "-" + s.Short + ", " + head
		}
		if s.Value != "" {
			head += " " + s.Value
		}
		line := "  " + head + "  " + s.Env() + "  " + s.Key + "\n"
		if strings.Count(page, line) != 1 || !strings.Contains("\n"+group(s.Group), "\n"+line) {
			t.Errorf("%s is there %d times; its group is\n%s", strings.TrimSpace(line), strings.Count(page, line), group(s.Group))
			continue
		}
		_, rest, _ := strings.Cut(page, line)
		meaning, _, _ := strings.Cut(rest, "\n  -")
		meaning, _, _ = strings.Cut(meaning, "\n\n")
		def := "(default: " + s.Default
		if s.Default == "" {
			def = "(default: none"
		}
		if s.Trust == config.Project {
			def += ")"
		} else {
			def += "; from a bastion.yaml only after bastion trust)"
		}
		if got := strings.Join(strings.Fields(meaning), " "); got != s.Help+" "+def {
			t.Errorf("%s:\n got %s\nwant %s %s", s.Key, got, s.Help, def)
		}
	}
	for line := range strings.Lines(page) {
		if n := len(strings.TrimSuffix(line, "\n")); n > helpWidth && strings.HasPrefix(line, "      ") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.HasSuffix(page, "\n--config FILE, or BASTION_CONFIG, names the configuration file.\n") {
		t.Errorf("the end: %s", page[len(page)-100:])
	}
}

// The names of a group's settings are listed as they are typed, the short form first.
func TestSettingNames(t *testing.T) {
	list := settingNames([]string{config.GroupOutput, config.GroupAWS, "none"})
	if len(list) != 3 || list[0].Name != config.GroupOutput || !strings.HasPrefix(list[0].Meaning, "-o/--output, ") ||
		list[1].Meaning != "-e/--environment, --profile, --region, --aws-timeout, --mfa-command" || list[2].Meaning != "" {
		t.Errorf("%q", list)
	}
}

// A name that leads nowhere is refused with what it may have meant, or with where the names are listed.
func TestFind(t *testing.T) {
	p := testProgram()
	for names, want := range map[string]struct{ text, next string }{
		"forwrad":       {`unknown command "forwrad"`, "did you mean bastion forward?"},
		"nothing":       {`unknown command "nothing"`, "bastion --help lists the commands"},
		"agent stat":    {`unknown subcommand "stat"`, "did you mean bastion agent start?"},
		"agent nothing": {`unknown subcommand "nothing"`, "bastion agent --help lists the subcommands"},
		"forward x":     {"bastion forward has no subcommands", "bastion forward --help explains it"},
		"service runn":  {`unknown subcommand "runn"`, "bastion service --help lists the subcommands"}, // what is hidden is not proposed
	} {
		cmd, path, err := p.Root.Find(strings.Fields(names))
		if cmd != nil || path != "" || !isUsage(err, want.text, want.next) {
			t.Errorf("%s: %v, %q, %v; want %q (%s)", names, cmd, path, err, want.text, want.next)
		}
	}
	if cmd, path, err := p.Root.Find([]string{"service", "run"}); err != nil || cmd.Name != "run" || path != "bastion service run" {
		t.Errorf("a hidden one: %v, %q, %v", cmd, path, err)
	}
}
