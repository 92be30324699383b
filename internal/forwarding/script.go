package forwarding

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/ready"
)

// ScriptOptions are the options by which a script waits for the forwards of a command, and ends them.
type ScriptOptions struct{ file, fd, exitWhen string }

// Options are the options that fill o in.
func (o *ScriptOptions) Options() []cli.Option {
	return []cli.Option{
		cli.Text(&o.file, "FILE", "write JSON to FILE once it is ready, and remove it at the end", "ready-file"),
		cli.Text(&o.fd, "N", "write the same line to the open file descriptor N, and close it", "ready-fd"),
		cli.Text(&o.exitWhen, "PID", "end when the process PID ends", "exit-when"),
	}
}

// Script is what a command tells the script that has started it, and what it hears of it.
type Script struct {
	file    *ready.File    // nil: none
	fd      *ready.FD      // nil: none
	process *process.Other // nil: none
	pid     int
}

// Open checks the options before anything starts. The script must be closed.
func (o *ScriptOptions) Open(detached bool) (_ *Script, err error) {
	p := &Script{}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	for _, given := range []struct{ name, value string }{
		{"ready-file", o.file}, {"ready-fd", o.fd}, {"exit-when", o.exitWhen},
	} {
		if detached && given.value != "" {
			return nil, fail.Usagef("leave out --detach, or --"+given.name, "with --detach the command ends when it is ready, which says so itself")
		}
	}
	if o.fd != "" {
		if p.fd, err = ready.NewFD(o.fd); err != nil {
			return nil, err
		}
	}
	if o.exitWhen != "" {
		if p.pid, err = strconv.Atoi(o.exitWhen); err != nil {
			return nil, fail.Usagef("give the id of a running process, such as $$ in a shell", "--exit-when: %q is not a process id", o.exitWhen)
		}
		if p.process, err = process.OpenOther(p.pid); err != nil {
			return nil, fail.New(fail.Other, "--exit-when", err, "")
		}
	}
	if o.file != "" {
		if p.file, err = ready.NewFile(o.file); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Close ends what the options have opened.
func (p *Script) Close() {
	if p.process != nil {
		p.process.Close()
	}
	if p.fd != nil {
		_ = p.fd.Close() // it is written and closed, or was not needed
	}
}

// tell tells the script where the forwards listen.
func (p *Script) tell(ctx context.Context, forwards []api.Forward) error {
	m := ready.NewMessage(forwards)
	if p.file != nil {
		if err := p.file.Write(m); err != nil {
			return err
		}
	}
	if p.fd != nil {
		return p.fd.Write(ctx, m)
	}
	return nil
}

// untell takes back what stays of tell, before the forwards close.
func (p *Script) untell() error {
	if p.file == nil {
		return nil
	}
	return p.file.Remove()
}

// processEnded is the cause of a context that ends with another process.
type processEnded struct{ pid int }

func (e *processEnded) Error() string { return fmt.Sprintf("process %d has ended", e.pid) }

// during does work until it returns, or until the script's process ends, which is no error.
func (p *Script) during(ctx context.Context, note func(string), work func(context.Context) error) error {
	if p.process == nil {
		return work(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ended := &processEnded{p.pid}
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel(nil)
	waiting.Go(func() {
		switch err := p.process.Wait(ctx); {
		case err == nil:
			cancel(ended)
		case ctx.Err() == nil:
			cancel(fail.New(fail.Other, fmt.Sprintf("wait for the end of process %d", p.pid), err, "leave out --exit-when"))
		}
	})
	err := work(ctx)
	if errors.Is(context.Cause(ctx), ended) && (err == nil || errors.Is(err, ended)) {
		note(ended.Error())
		return nil
	}
	return err
}

// ServeForScript is ServeForwards for a command that a script has started.
func (a *Forwarder) ServeForScript(ctx context.Context, s config.Settings, w Wanted, p *Script, v Served) error {
	show := v.Show
	v.Show = func(ctx context.Context, forwards []api.Forward) error {
		if err := p.tell(ctx, forwards); err != nil {
			return err
		}
		return show(ctx, forwards)
	}
	v.Hide = p.untell
	note := func(text string) { a.Note(s, "%s, and the forwards with it", text) }
	return p.during(ctx, note, func(ctx context.Context) error { return a.ServeForwards(ctx, s, w, v) })
}
