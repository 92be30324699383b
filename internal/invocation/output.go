package invocation

import (
	"fmt"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// Note says something on standard error, unless the command is to be quiet.
func (in *Invocation) Note(s config.Settings, format string, args ...any) {
	if !s.Output.Quiet {
		_ = console.Printf(in.Err, "bastion: "+format+"\n", args...)
	}
}

// Outcome prints what a command has done: a sentence, or v where JSON is wanted.
func (in *Invocation) Outcome(s config.Settings, v any, text string) error {
	if s.Output.Format == "json" {
		return in.PrintJSON(v)
	}
	return console.Printf(in.Out, "%s\n", text)
}

// WantsJSON reports whether the command line asks for JSON. It is for texts that shells and ssh read: a setting of the configuration
// does not change those.
func (in *Invocation) WantsJSON() bool { return in.Line.Settings["output"] == "json" }

// Document prints a text for programs: as it is, or as a JSON string under the given key.
func (in *Invocation) Document(key, text string) error {
	if in.WantsJSON() {
		return in.PrintJSON(map[string]string{key: text})
	}
	_, err := fmt.Fprint(in.Out, text)
	return err
}

// PrintExact prints a line for programs: as it is or not at all, because with another character it would be another value.
func (in *Invocation) PrintExact(what, text, next string) error {
	if printable.Text(text) != text {
		return fail.Usagef(next, "%s has characters that a terminal must not show", what)
	}
	_, err := fmt.Fprintln(in.Out, text)
	return err
}

// PrintJSON prints v as one indented JSON text.
func (in *Invocation) PrintJSON(v any) error { return console.WriteJSON(in.Out, v, "  ") }

// PrintLine prints v as JSON on one line.
func (in *Invocation) PrintLine(v any) error { return console.WriteJSON(in.Out, v, "") }

// Told is the error of a command that has printed what went wrong. Its kind decides the exit code.
type Told struct{ Kind fail.Kind }

func (t *Told) Error() string { return "the command has said what failed" }
