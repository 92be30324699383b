package setup

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Terminal is the person at a terminal.
type Terminal struct {
	In       *os.File
	Err      io.Writer // for questions; characters that do not print must not get through it
	Progress *console.Progress
	Alone    bool // nobody is to be asked
	Defaults bool // where nobody can answer, the questions' defaults do: for what changes nothing
}

// Answer implements Person. Where nobody can answer, its error names the option that does, unless the
// question's default is taken.
func (t *Terminal) Answer(ctx context.Context, q survey.Question) (string, error) {
	t.Progress.Idle()
	if t.Alone || !console.CanAsk(t.In) {
		if t.Defaults && q.Default != "" {
			_ = console.Printf(t.Err, "bastion: taking --%s %s, because nobody was asked: %s\n", q.Flag, q.Default, q.Text)
			return q.Default, nil
		}
		return "", fail.Usagef("answer by --"+q.Flag+": "+candidates(q, "; "), "%s", q.Text)
	}
	line, err := console.Ask(ctx, t.In, t.Err, fmt.Sprintf("%s\n  %s\n[%s] ", q.Text, candidates(q, "\n  "), q.Default))
	return cmp.Or(line, q.Default), err
}

func candidates(q survey.Question, between string) string {
	var values []string
	for _, c := range q.Candidates {
		values = append(values, c.Value+" ("+c.Word+")")
	}
	return strings.Join(values, between)
}

// Step implements Person.
func (t *Terminal) Step(text string) { t.Progress.Step(text) }

// Event implements Person.
func (t *Terminal) Event(e deploy.Event) { Tell(t.Progress, e) }

// Tell shows an event of CloudFormation's. It keeps failures in view, and shows anything else as a step.
func Tell(p *console.Progress, e deploy.Event) {
	if e.Failed() {
		p.Note(fmt.Sprintf("%s (%s) failed: %s", e.Resource, e.Type, e.Reason))
		return
	}
	p.Step(e.Resource + " (" + e.Type + "): " + strings.ToLower(strings.ReplaceAll(e.Status, "_", " ")))
}
