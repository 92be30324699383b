package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// manOptions are the options of man that are no settings.
type manOptions struct{ dir string }

func (a *app) manCommand() *cli.Command {
	var o manOptions
	return &cli.Command{
		Name:    "man",
		Summary: "print a command's manual page, or write all pages",
		Group:   groupOther,
		Args:    "[COMMAND]", MaxArgs: 1,
		About: []cli.Passage{cli.Para(`Prints a manual page in roff: bastion(1), or the page of a command. With --dir it writes all pages into the
			directory, which it makes if necessary: bastion.1, and bastion-COMMAND.1 for each command. Their date is SOURCE_DATE_EPOCH, or
			today.`)},
		Examples: []string{"bastion man forward | man -l -", "bastion man --dir ~/.local/share/man/man1"},
		Flags:    []cli.Option{cli.Text(&o.dir, "DIR", "write all pages into DIR", "dir")},
		Run:      func(_ context.Context, args []string) error { return a.man(args, o) },
		Complete: func(args []string) []cli.Candidate {
			if len(args) > 0 {
				return nil
			}
			return a.Line.Root.Candidates()
		},
	}
}

// man runs `bastion man`.
func (a *app) man(args []string, o manOptions) error {
	date, err := manDate()
	if err != nil {
		return err
	}
	m := a.manual(date)
	dir, name := o.dir, cli.Optional(args)
	switch {
	case dir == "" && name == "":
		return a.Document("man", m.Overview())
	case dir == "":
		cmd, _, err := m.Program.Root.Find([]string{name})
		if err != nil {
			return err
		}
		return a.Document("man", m.Command(cmd))
	case name != "":
		return fail.Usagef("leave out "+name+", or --dir", "--dir is for all pages")
	}
	pages := map[string]string{"bastion.1": m.Overview()}
	for _, cmd := range m.Program.Root.Verbs {
		pages["bastion-"+cmd.Name+".1"] = m.Command(cmd)
	}
	const next = "name a directory in which you may write"
	if err := files.MkdirAll(dir, 0o755); err != nil {
		return fail.New(fail.Usage, "write the manual", err, next)
	}
	for file, page := range pages {
		if err := files.Replace(filepath.Join(dir, file), []byte(page), 0o644); err != nil {
			return fail.New(fail.Usage, "write the manual", err, next)
		}
	}
	return nil
}

// manDate is the date of the pages. Builds that are to be repeated set the variable.
func manDate() (string, error) {
	at := time.Now()
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		n, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return "", fail.Usagef("set it to seconds since 1970, or not at all", "SOURCE_DATE_EPOCH is %q", epoch)
		}
		at = time.Unix(n, 0)
	}
	return at.UTC().Format(time.DateOnly), nil
}

// exitMeanings explain the exit codes, beside those of signals.
var exitMeanings = map[fail.Kind]string{
	fail.Other: "a failure of no special kind", fail.Usage: "wrong options, arguments or configuration",
	fail.NoTarget: "no such target, or several", fail.Credentials: "no AWS credentials, or expired or invalid ones",
	fail.Denied: "refused by IAM or by the bastion's policy", fail.Start: "the bastion could not be started or reached",
	fail.PortInUse: "a local port is taken", fail.Lost: "the link was lost and could not be restored",
	fail.Timeout: "the time was over",
}

// manual describes the program's manual pages of a date.
func (a *app) manual(date string) cli.Manual {
	m := cli.Manual{
		Program: a.Line, Date: date, Version: a.Version,
		Files: []cli.Term{
			{Name: "bastion.yaml", Meaning: "The configuration, in the working directory or the nearest directory above it that has one."},
			{Name: "~/.config/bastion/config.yaml", Meaning: "The configuration, if none of those directories has one."},
			{Name: "~/.local/state/bastion/trusted.json", Meaning: "The bastion.yaml files that bastion trust has recorded."},
		},
		Environment: []cli.Term{
			{Name: "BASTION_CONFIG", Meaning: "The configuration file."},
			{Name: "AWS_PROFILE, AWS_REGION, ...", Meaning: "As for the AWS CLI."},
		},
		ExitStatus: []cli.Term{{Name: "0", Meaning: "Success."}},
	}
	for kind := fail.Other; kind <= fail.Timeout; kind++ {
		meaning := exitMeanings[kind]
		m.ExitStatus = append(m.ExitStatus, cli.Term{
			Name: strconv.Itoa(exitCodes[kind]), Meaning: strings.ToUpper(meaning[:1]) + meaning[1:] + ".",
		})
	}
	m.ExitStatus = append(m.ExitStatus, cli.Term{Name: "128+N", Meaning: "Ended by signal N."})
	return m
}
