package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// printf is fmt.Fprintf for people: each argument is sanitized and stays on its line, unless it is a paragraph. An argument can therefore
// neither draw on the terminal nor pose as a line of ours.
func printf(w io.Writer, format string, args ...any) error {
	safe := make([]any, len(args))
	for i, arg := range args {
		safe[i] = argument{arg}
	}
	_, err := fmt.Fprintf(w, format, safe...)
	return err
}

// argument is a value that formats itself without what a terminal must not show.
type argument struct{ value any }

// paragraph is an argument of printf that may have several lines. They are indented, because ours are not.
type paragraph string

// Format implements fmt.Formatter. A state of fmt takes everything.
func (a argument) Format(s fmt.State, verb rune) {
	text := fmt.Sprintf(fmt.FormatString(s, verb), a.value)
	if _, ok := a.value.(paragraph); ok {
		text = indented(text)
	} else {
		text = printable.OneLine(text)
	}
	_, _ = io.WriteString(s, text)
}

// indented makes text from elsewhere safe for the terminal, with further lines indented.
func indented(s string) string {
	return strings.NewReplacer("\n", "\n  ", "\t", " ").Replace(printable.Text(strings.TrimSpace(s)))
}

// printExact prints a line for programs: as it is or not at all, because with another character it would be another value.
func (a *app) printExact(what, text, next string) error {
	if printable.Text(text) != text {
		return usage(next, "%s has characters that a terminal must not show", what)
	}
	_, err := fmt.Fprintln(a.out, text)
	return err
}

// printJSON prints v as one indented JSON text.
func (a *app) printJSON(v any) error { return encodeJSON(a.out, v, "  ") }

// printLine prints v as JSON on one line.
func (a *app) printLine(v any) error { return encodeJSON(a.out, v, "") }

// encodeJSON writes v as JSON, in which no list is null: the exact data, with escapes for what a terminal must not show.
func encodeJSON(w io.Writer, v any, indent string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", indent)
	e.SetEscapeHTML(false)
	if err := e.Encode(listed(reflect.ValueOf(v)).Interface()); err != nil {
		return err
	}
	_, err := w.Write(printable.JSON(b.Bytes()))
	return err
}
