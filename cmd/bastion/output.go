package main

import (
	"fmt"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// note says something on standard error, unless the command is to be quiet.
func (a *app) note(s config.Settings, format string, args ...any) {
	if !s.Output.Quiet {
		_ = console.Printf(a.err, "bastion: "+format+"\n", args...)
	}
}

// outcome prints what a command has done: a sentence, or v where JSON is wanted.
func (a *app) outcome(s config.Settings, v any, text string) error {
	if s.Output.Format == "json" {
		return a.printJSON(v)
	}
	return console.Printf(a.out, "%s\n", text)
}

// wantsJSON reports whether the command line asks for JSON. It is for texts that shells and ssh read: a setting of the configuration
// does not change those.
func (a *app) wantsJSON() bool { return a.line.Settings["output"] == "json" }

// document prints a text for programs: as it is, or as a JSON string under the given key.
func (a *app) document(key, text string) error {
	if a.wantsJSON() {
		return a.printJSON(map[string]string{key: text})
	}
	_, err := fmt.Fprint(a.out, text)
	return err
}

// printExact prints a line for programs: as it is or not at all, because with another character it would be another value.
func (a *app) printExact(what, text, next string) error {
	if printable.Text(text) != text {
		return fail.Usagef(next, "%s has characters that a terminal must not show", what)
	}
	_, err := fmt.Fprintln(a.out, text)
	return err
}

// printJSON prints v as one indented JSON text.
func (a *app) printJSON(v any) error { return console.WriteJSON(a.out, v, "  ") }

// printLine prints v as JSON on one line.
func (a *app) printLine(v any) error { return console.WriteJSON(a.out, v, "") }
