package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// isUsage reports whether err is a usage error with this text and hint.
func isUsage(err error, text, next string) bool {
	return err != nil && fail.KindOf(err) == fail.Usage && err.Error() == text && fail.NextOf(err) == next
}

// What the parser complains of is told in the program's words: the option as it is typed, the reason, and the command whose help lists it.
func TestUsageErrors(t *testing.T) {
	for line, want := range map[string]struct{ text, next string }{
		"forward x --region":     {"the option --region needs a value", "bastion help settings lists the options"},
		"forward x -o":           {"the option -o needs a value", "bastion help settings lists the options"},
		"agent run --log-file":   {"the option --log-file needs a value", "bastion help settings lists the options"},
		"agent run --stay=maybe": {`--stay: "maybe" is neither true nor false`, "bastion agent run --help lists the options"},
		"forward x -Z":           {"unknown option -Z", "bastion forward --help lists the options"},
		"--nothing-like-that":    {"unknown option --nothing-like-that", "bastion --help lists the options"},
		"forward --hlp":          {"unknown option --hlp", "did you mean --help?"},
		"forward --aws_timeout x": {
			"unknown option --aws_timeout", "did you mean --aws-timeout?",
		},
		"forward ---region x": {"unknown option ---region", "did you mean --region?"},
		"forward --name=1 --config": {
			"the option --config needs a value", "bastion help settings lists the options",
		},
		"ls nothing":      {`unknown subcommand "nothing"`, "bastion ls --help lists the subcommands"},
		"agent":           {"agent: a subcommand is missing", "usage: bastion agent run|start"},
		"service":         {"service: a subcommand is missing", "usage: bastion service install"},
		"forward a b c d": {"forward: too many arguments", "usage: bastion forward SPEC..."},
		"-- nothing":      {`unknown command "nothing"`, "bastion --help lists the commands"},
	} {
		p := testProgram()
		ran := false
		p.Root = testTable(new(testOptions), func(string, []string) { ran = true })
		p.Default = func() error { ran = true; return nil }
		err := p.Run(t.Context(), append([]string{"bastion"}, strings.Fields(line)...))
		if !isUsage(err, want.text, want.next) || ran {
			t.Errorf("%s: %v (%s), ran %v; want %s (%s)", line, err, fail.NextOf(err), ran, want.text, want.next)
		}
	}
}

// An option may refuse its value. Its own reason is told, with its name.
func TestOptionRefuses(t *testing.T) {
	p := testProgram()
	p.Root = testTable(new(testOptions), func(string, []string) { t.Error("it runs") })
	forward := p.Root.Verb("forward")
	forward.Flags = append(forward.Flags, Func("N", "a number", func(v string) error {
		return errors.New(v + " is no number")
	}, "count"), Func("N", "another", func(v string) error { return errors.New("never") }, "N"),
		Func("N", "a third", func(v string) error { return errors.New("--third " + v + " is no third") }, "third"))
	for line, text := range map[string]string{
		"forward x --count many": "--count: many is no number", "forward x --count=": "--count:  is no number", "forward x -N 1": "-N: never",
		"forward x --third 4": "--third: 4 is no third", // an error may name its option itself
	} {
		err := p.Run(t.Context(), append([]string{"bastion"}, strings.Fields(line)...))
		if !isUsage(err, text, "bastion forward --help lists the options") {
			t.Errorf("%s: %v (%s), want %s", line, err, fail.NextOf(err), text)
		}
	}
}

// A command's error comes back as it is, and the context reaches the command.
func TestRunPassesOn(t *testing.T) {
	p := testProgram()
	denied := fail.New(fail.Denied, "op", errors.New("no"), "ask")
	p.Default = func() error { return denied }
	if err := p.Run(t.Context(), []string{"bastion"}); !errors.Is(err, denied) {
		t.Errorf("%v", err)
	}
	// Another name of the executable does not matter.
	var ran []string
	p.Root = testTable(new(testOptions), func(command string, args []string) { ran = append([]string{command}, args...) })
	if err := p.Run(t.Context(), []string{"/usr/local/bin/bst", "forward", "-", "-q", "--", "-x", "--"}); err != nil ||
		!slices.Equal(ran, []string{"forward", "-", "-x", "--"}) {
		t.Errorf("%q, %v", ran, err)
	}
}

// Settings are noted as texts by their keys, by either name, the last of several; what is not given is not noted.
func TestSettingsAreNoted(t *testing.T) {
	for line, want := range map[string]map[string]string{
		"status":                                 {},
		"status --region x":                      {"region": "x"},
		"--region x status --region y":           {"region": "y"},
		"status -o json":                         {"output": "json"},
		"status --output=json":                   {"output": "json"},
		"status --assign-public-ip":              {"assign_public_ip": "true"},
		"status --assign-public-ip=false":        {"assign_public_ip": "false"},
		"status --aws-timeout= --subnets=a,b":    {"aws_timeout": "", "subnets": "a,b"},
		"ls --region x targets --output json -q": {"region": "x", "output": "json", "quiet": "true"},
	} {
		p := testProgram()
		p.Root = testTable(new(testOptions), func(string, []string) {})
		if err := p.Run(t.Context(), append([]string{"bastion"}, strings.Fields(line)...)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if len(p.Settings) != len(want) {
			t.Errorf("%s: %v, want %v", line, p.Settings, want)
		}
		for key, text := range want {
			if got, ok := p.Settings[key]; !ok || got != text {
				t.Errorf("%s: %s is %q, want %q", line, key, got, text)
			}
		}
	}
	p := testProgram()
	p.Root = testTable(new(testOptions), func(string, []string) {})
	if err := p.Run(t.Context(), []string{"bastion", "status", "--config", "f.yaml"}); err != nil || p.ConfigFile != "f.yaml" {
		t.Errorf("%q, %v", p.ConfigFile, err)
	}
}

// Whatever is written, each word is an argument once and in its order, or an option's; and what follows "--" is untouched.
func FuzzArrange(f *testing.F) {
	for _, line := range []string{
		"forward a --region x b", "exec a -- b -y --help", "agent run --stay", "-- -- --", "forward --name -- x", "- -", "--", "forward --name=-- --help",
		"ls -q", "--version x", "forward -L -L -L", "service run -h",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, " ")
		got, err := testProgram().Arrange(append([]string{"bastion"}, words...))
		if err != nil {
			if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
				t.Errorf("%q: %v", line, err)
			}
			return
		}
		if len(got) > 1 && (got[1] == "help" || got[1] == "version") {
			return
		}
		count := make(map[string]int)
		for _, w := range got[1:] {
			count[w]++
		}
		for _, w := range words {
			count[w]--
		}
		for w, n := range count {
			divides := w == "--" && n >= -1 && n <= 1                          // is put before arguments, and taken from where it stood
			usual := w == "forwards" && n == 1 && slices.Contains(words, "ls") // the subcommand of ls that runs by default
			if n != 0 && !divides && !usual {
				t.Errorf("%q: %q has %q %d times more", line, got, w, n)
			}
		}
		if before, after, found := strings.Cut(" "+line, " -- "); found && !strings.Contains(before, "-") {
			if rest := strings.Split(after, " "); !slices.Equal(got[max(0, len(got)-len(rest)):], rest) {
				t.Errorf("%q: %q does not end as it is written", line, got)
			}
		}
	})
}
