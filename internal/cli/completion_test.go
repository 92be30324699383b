package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
)

// complete returns the candidates for the last word of a line, with a program that change has changed.
func complete(line string, change func(*Program)) (values []string, out string) {
	p := testProgram()
	if change != nil {
		change(p)
	}
	var b bytes.Buffer
	p.Complete(&b, strings.Split(line, " "))
	for l := range strings.Lines(b.String()) {
		value, _, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "\t")
		values = append(values, value)
	}
	return values, b.String()
}

// A candidate stands in a line of its own, with a tab before its description.
func TestCompleteLines(t *testing.T) {
	if _, out := complete("", nil); out != "forward\tforward ports\nstatus\tshow\nexec\trun\nagent\tthe agent\nls\tlist\nservice\tserve\nversion\tprint it\n" {
		t.Errorf("%q", out)
	}
	var b bytes.Buffer
	testProgram().Complete(&b, nil)
	if !strings.HasPrefix(b.String(), "forward\t") {
		t.Errorf("of no words: %q", b.String())
	}
	// PowerShell passes the quotes of an empty word on.
	if got, _ := complete(`agent ""`, nil); !slices.Equal(got, []string{"run", "start"}) {
		t.Errorf("of quotes: %q", got)
	}
}

// The options of a command are its own, those of its subcommand once that is given, and every setting.
func TestCompleteOptions(t *testing.T) {
	all, _ := complete("forward --", nil)
	for _, want := range []string{"--name", "--config", "--help"} {
		if !slices.Contains(all, want) {
			t.Errorf("no %s in %q", want, all)
		}
	}
	for _, s := range config.All() {
		if !slices.Contains(all, "--"+s.Flag()) {
			t.Errorf("no --%s", s.Flag())
		}
	}
	if slices.Contains(all, "--log-file") || slices.Contains(all, "-L") {
		t.Errorf("another command's, or one of another form: %q", all)
	}
	if got, _ := complete("forward -L", nil); !slices.Equal(got, []string{"-L"}) {
		t.Errorf("of one letter: %q", got)
	}
	if got, _ := complete("agent run --log", nil); !slices.Equal(got, []string{"--log-file"}) {
		t.Errorf("of a subcommand: %q", got)
	}
}

// What has been typed of options is noted, so that candidates can depend on it: the region, the configuration file.
func TestCompleteNotes(t *testing.T) {
	for line, want := range map[string]string{
		"forward --region eu-west-1 ":         "eu-west-1 ",
		"forward --region=eu-west-1 ":         "eu-west-1 ",
		"--region eu-west-1 forward ":         "eu-west-1 ",
		"forward --region x --region y ":      "y ",
		"forward --config f.yaml ":            " f.yaml",
		"forward --config=f.yaml ":            " f.yaml",
		"forward --assign-public-ip spec ":    " ", // a switch has no value
		"forward --unknown --region z spec ":  "z ",
		"forward -o json --region eu-west-1 ": "eu-west-1 ",
	} {
		var got string
		complete(line, func(p *Program) {
			p.Root.Verb("forward").Complete = func([]string) []Candidate {
				got = p.Settings["region"] + " " + p.ConfigFile
				return nil
			}
		})
		if got != want {
			t.Errorf("%q: noted %q, want %q", line, got, want)
		}
	}
}

// A value is completed by its option: a setting's by the program, a command's own by its choices. Its arguments, options left out,
// complete the rest.
func TestCompleteValues(t *testing.T) {
	change := func(p *Program) {
		p.Values = func(key string) []Candidate { return Words(key+"-1", key+"-2") }
		forward := p.Root.Verb("forward")
		forward.Flags[1].(*Flag).Choices(Words("orders", "users")...)
	}
	for line, want := range map[string]string{
		"forward --region ":             "region-1 region-2",
		"forward --region region-2":     "region-2",
		"forward -o ":                   "output-1 output-2",
		"forward --name ":               "orders users",
		"forward --name u":              "users",
		"forward -L ":                   "", // the shell completes files
		"forward a --region x b ":       "specab",
		"forward a -q b ":               "specab",
		"forward a - ":                  "speca-", // standard input is an argument
		"forward --name=x a ":           "speca",
		"forward -- ":                   "",
		"agent ":                        "run start",
		"agent --region ":               "region-1 region-2",
		"agent run ":                    "",
		"agent nothing ":                "",
		"- ":                            "",
		"status x":                      "",
		"forward --no-such-option spec": "spec",
	} {
		if got, _ := complete(line, change); strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// What a terminal must not show is no candidate, whether in the word or in its description.
func TestCompleteNothingOdd(t *testing.T) {
	got, out := complete("forward ", func(p *Program) {
		p.Root.Verb("forward").Complete = func([]string) []Candidate {
			return []Candidate{{"good", "help"}, {"bell\a", "help"}, {"two\nlines", ""}, {"esc", "a\x1b[31mred"}, {"tab", "a\tb"}, {"last", ""}}
		}
	})
	if !slices.Equal(got, []string{"good", "last"}) || strings.ContainsAny(out, "\a\x1b") {
		t.Errorf("%q: %q", got, out)
	}
}

// Every shell has a script that calls the program by its own name; other shells have none.
func TestCompletionScripts(t *testing.T) {
	p := testProgram()
	p.Root.Name = "bridge"
	for _, shell := range Shells {
		script, ok := p.CompletionScript(shell)
		if !ok || !strings.Contains(script, "bridge") || strings.Contains(script, "{program}") || strings.Contains(script, "bastion") ||
			!strings.Contains(script, CompleteCommand) {
			t.Errorf("%s: %v\n%s", shell, ok, script)
		}
	}
	if script, ok := p.CompletionScript("tcsh"); ok || script != "" {
		t.Errorf("tcsh: %q", script)
	}
	if len(completionScripts) != len(Shells) {
		t.Errorf("%d scripts for %d shells", len(completionScripts), len(Shells))
	}
}
