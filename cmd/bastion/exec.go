package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/targets"
)

// The exit codes of a program that could not be started, as shells have them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// login are the flags that say who signs in to a database.
type login struct {
	user, iamUser, database string
}

func (a *app) loginFlags() []option {
	flag := func(name, form, help string, into *string) option {
		return &textFlag{names: []string{name}, form: form, help: help, set: func(v string) { *into = v }}
	}
	return []option{
		flag("user", "USER", "database user", &a.login.user),
		flag("iam-user", "USER", "database user who signs in with an RDS IAM token, valid for 15 minutes", &a.login.iamUser),
		flag("database", "NAME", "database (default: the one that RDS created, if any)", &a.login.database),
	}
}

func (l login) check() error {
	if l.user != "" && l.iamUser != "" && l.user != l.iamUser {
		return usage("leave out --user; --iam-user names the user", "--user and --iam-user name different users")
	}
	return nil
}

// checkCA refuses a file of certificates that is not there: clients would say so later and less clearly.
func checkCA(s config.Settings) error {
	if s.Forward.TLSCA == "" {
		return nil
	}
	if _, err := os.Stat(s.Forward.TLSCA); err != nil {
		next := "name a CA bundle with --tls-ca"
		if url := partition.Of(cmp.Or(s.AWS.Region, os.Getenv("AWS_REGION"))).CABundle; url != "" {
			next += "; that of RDS is at " + url
		}
		return fail.New(fail.Usage, "tls_ca", err, next)
	}
	return nil
}

func (a *app) execCommand() *command {
	return &command{
		name:    "exec",
		summary: "run a program while its databases are forwarded",
		group:   groupDatabases,
		args:    "SPEC [LPORT] [SPEC [LPORT]]... -- PROGRAM [ARGUMENT]...",
		about: []passage{
			para(`Forwards each target to a free local port, or to LPORT, runs the program, and ends the forwards with it. Signals are
				passed on. The exit code is the program's; 128+N if signal N ended it, 127 if it is not found, 126 if it cannot be run.`),
			para(`The program's environment has the variables of database clients, for the first database of each kind: PGHOST,
				PGHOSTADDR, PGPORT, PGSSLMODE and PGDATABASE; MYSQL_HOST and MYSQL_TCP_PORT; REDIS_URL. It also has, for each target,
				BASTION_<NAME>_HOST, _PORT, _ADDR (both), _URL and _SERVERNAME (the real name). NAME is the target in capitals, with _ for
				all other characters than letters and digits: BASTION_RDS_ORDERS_PORT.`),
			para(`With a CA bundle (--tls-ca or PGSSLROOTCERT) PGSSLMODE is verify-ca. For PostgreSQL's own programs, and with --hosts,
				it is verify-full and PGHOST is the real name. docs/clients.md has more.`),
		},
		examples: []string{
			"bastion exec rds:orders -- psql",
			"bastion exec orders --iam-user app --tls-ca global-bundle.pem -- pg_dump --file orders.sql",
			"bastion exec --env DATABASE_URL=orders,node orders -- npm start",
		},
		flags: append(a.loginFlags(), &textFlag{
			names: []string{"env"}, form: "NAME=SPEC[,FORMAT]",
			help: "variable for a target's connection string, in a format of bastion url (default: uri); may be repeated",
			setErr: func(v string) error {
				e, err := parseEnvFlag(v)
				a.execEnv = append(a.execEnv, e)
				return err
			},
		}),
		settings: []string{config.GroupAWS, config.GroupLink, config.GroupLocal, config.GroupOutput},
		divided:  true,
		complete: func([]string) []candidate { return a.targetCandidates() },
		run:      a.exec,
	}
}

// exec runs `bastion exec`.
func (a *app) exec(c *cli.Context) error {
	ctx := c.Context
	s, err := a.settings()
	if err != nil {
		return err
	}
	pairs, program, err := parseExec(c.Args().Slice())
	if err != nil {
		return err
	}
	if err := errors.Join(a.login.check(), checkCA(s), checkEnvFlags(a.execEnv, pairs)); err != nil {
		return err
	}
	path, err := findProgram(program[0])
	if err != nil {
		return err
	}
	requests := make([]api.ForwardRequest, len(pairs))
	for i, p := range pairs {
		if requests[i], err = forwardRequest(p, s); err != nil {
			return err
		}
	}
	var tokens []string
	var names *hostNames
	if s.Forward.Hosts || a.login.iamUser != "" {
		endpoints, resolved, err := a.lookUp(ctx, "exec", s, pairs)
		if err != nil {
			return err
		}
		tokens = resolved
		if s.Forward.Hosts {
			if names, err = planHosts(ctx, s, endpoints, requests); err != nil {
				return err
			}
		}
	}
	var outcome error
	ran := false
	err = a.withForwards(ctx, s, "exec", requests, func(ctx context.Context, infos []api.Forward) error {
		return names.during(ctx, func() error {
			databases, err := a.databases(s, pairs, infos, tokens)
			if err != nil {
				return err
			}
			for i := range databases {
				databases[i].Separates = dsn.SeparatesName(program[0])
			}
			env, notes := execEnvironment(os.Environ(), databases)
			named, err := envFlagVariables(a.execEnv, databases, os.Getenv)
			if err != nil {
				return err
			}
			env = append(env, named...)
			if !s.Output.Quiet {
				for _, note := range notes {
					_ = printf(a.err, "bastion: %s\n", note)
				}
			}
			ran = true
			outcome = a.runProgram(ctx, path, program, env, s.Output.Quiet)
			return outcome
		})
	})
	if ran && !errors.Is(outcome, context.Canceled) {
		return outcome // whatever became of the forwards meanwhile: the program has seen it
	}
	return cmp.Or(err, outcome) // the forwards ended before the program began
}

// parseExec cuts the arguments at "--" into what is forwarded and what is run.
func parseExec(args []string) ([]targets.Pair, []string, error) {
	const usageLine = "write bastion exec SPEC... -- PROGRAM [ARGUMENT]..."
	i := slices.Index(args, "--")
	if i < 0 {
		return nil, nil, usage(usageLine, "exec: -- before the program is missing")
	}
	if i == len(args)-1 {
		return nil, nil, usage(usageLine, "exec: the program is missing")
	}
	if i == 0 {
		return nil, nil, usage(usageLine, "exec: the target is missing")
	}
	pairs, err := targets.ParsePair(args[:i])
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[string]string)
	for j := range pairs {
		p := &pairs[j]
		if p.Local == (targets.Local{}) {
			p.Local.Free = true
		}
		name := dsn.VariableName(execName(p.Target))
		if other, ok := seen[name]; ok {
			return nil, nil, usage("leave one out, or run bastion exec once for each",
				"exec: %s and %s have the same variables, BASTION_%s_*", other, p.Target, name)
		}
		seen[name] = p.Target.String()
		for _, suffix := range []string{"HOST", "PORT", "ADDR", "URL", "USER", "DATABASE", "PASSWORD", "SERVERNAME"} {
			if setting := config.Lookup(strings.ToLower(name + "_" + suffix)); setting != nil {
				return nil, nil, usage("give the target another name in the configuration",
					"exec: %s would get the variable %s, which is a setting of bastion", p.Target, setting.Env())
			}
		}
	}
	return pairs, args[i+1:], nil
}

// execName is what variables are named after: the target as the user calls it, without its port unless it is a host.
func execName(spec targets.Spec) string {
	if spec.Kind != targets.Host {
		spec.Port = 0
	}
	return spec.String()
}

// findProgram finds a program before anything is started for it.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	if errors.Is(err, exec.ErrDot) {
		return path, &exitError{exitNotFound, usage("write ."+string(os.PathSeparator)+name+" if that is meant",
			"exec: %s is in the working directory only", name)}
	}
	if errors.Is(err, os.ErrPermission) {
		return "", &exitError{exitNotExecutable, usage("make it executable, or name another program",
			"exec: %s cannot be run: permission denied", name)}
	}
	return "", &exitError{exitNotFound, usage("check the name and PATH; the program comes after --",
		"exec: program %s not found", name)}
}

// lookUp finds the endpoints, for what must be known of them before they are forwarded, and makes a token for each if
// there is an IAM user. Only databases of RDS have tokens; of the others there must be at least one that is.
func (a *app) lookUp(ctx context.Context, command string, s config.Settings, pairs []targets.Pair,
) ([]targets.Endpoint, []string, error) {
	run, err := a.open(ctx, command, s)
	if err != nil {
		return nil, nil, err
	}
	defer run.close()
	specs := make([]targets.Spec, len(pairs))
	names := make([]string, len(pairs))
	for i, p := range pairs {
		specs[i], names[i] = p.Target, p.Target.String()
	}
	run.progress.Step("looking up " + strings.Join(names, ", "))
	endpoints, err := run.access.Resolve(ctx, specs)
	if err != nil || a.login.iamUser == "" {
		return endpoints, make([]string, len(pairs)), err
	}
	tokens := make([]string, len(pairs))
	var refused error
	for i, e := range endpoints {
		token, err := run.access.Token(ctx, e, a.login.iamUser)
		switch kind := dsn.ProtocolOf(e.Engine, e.Port); {
		case err == nil:
			tokens[i] = token
		case kind == dsn.Postgres || kind == dsn.MySQL:
			return nil, nil, err // it would be signed in to without
		case refused == nil:
			refused = err
		}
	}
	if !slices.ContainsFunc(tokens, func(t string) bool { return t != "" }) {
		return nil, nil, refused
	}
	return endpoints, tokens, nil
}

// databases describes the forwards to their clients. tokens may be nil.
func (a *app) databases(s config.Settings, pairs []targets.Pair, infos []api.Forward, tokens []string,
) ([]dsn.Database, error) {
	out := make([]dsn.Database, len(infos))
	for i, info := range infos {
		d, err := dsn.New(execName(pairs[i].Target), info, s)
		if err != nil {
			return nil, err
		}
		d.User = a.login.user
		if a.login.database != "" {
			d.Database = a.login.database
		}
		if i < len(tokens) && tokens[i] != "" {
			d.User, d.Password = a.login.iamUser, tokens[i]
		}
		out[i] = d
	}
	return out, nil
}

// execVariable lists the names of BASTION_<NAME>_* variables, so that scripts and bastion itself know them for what
// they are.
const execVariable = "BASTION_EXEC"

// execEnvironment adds to the environment what clients of the databases read, and returns what the user should know of
// it.
func execEnvironment(environ []string, databases []dsn.Database) (env, notes []string) {
	current := make(map[string]string)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		current[name] = value
	}
	getenv := func(name string) string { return current[name] }
	first := make(map[dsn.Protocol]string)
	var names []string
	added := []string{}
	for _, d := range databases {
		d.Getenv = getenv
		names = append(names, dsn.VariableName(d.Name))
		added = append(added, d.Own()...)
		vars := d.Variables()
		if len(vars) == 0 {
			continue
		}
		if other, ok := first[d.Protocol]; ok {
			prefix, _, _ := strings.Cut(vars[0], "_")
			if d.Protocol == dsn.Postgres {
				prefix = "PG"
			}
			notes = append(notes, fmt.Sprintf("%s* are those of %s; for %s there are BASTION_%s_*",
				prefix, other, d.Name, dsn.VariableName(d.Name)))
			continue
		}
		first[d.Protocol] = d.Name
		added = append(added, vars...)
	}
	drop := map[string]bool{}
	if name, ok := first[dsn.Postgres]; ok {
		i := slices.IndexFunc(databases, func(d dsn.Database) bool { return d.Name == name })
		if d := databases[i]; current["PGSSLMODE"] == "verify-full" && !d.Separates && !d.Reaches {
			notes = append(notes, "PGSSLMODE is verify-full, and clients that cannot tell name and address apart know "+
				d.Host()+" alone: use --hosts, or PGSSLMODE=verify-ca")
		}
		// What these name goes before PGHOST, and would lead the program elsewhere.
		for _, name := range []string{"PGSERVICE", "PGSERVICEFILE"} {
			if current[name] != "" {
				drop[name] = true
				notes = append(notes, name+" is not passed on, because it would lead past the forward")
			}
		}
	}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !drop[name] {
			env = append(env, kv)
		}
	}
	// Of variables that are there twice the last counts.
	return append(append(env, added...), execVariable+"="+strings.Join(names, ",")), notes
}

// runProgram runs a program to its end, whatever becomes of the forwards meanwhile, and passes signals on to it. The
// error has its exit code, or is nil.
func (a *app) runProgram(ctx context.Context, path string, argv, env []string, quiet bool) error {
	sigs := make(chan os.Signal, 16)
	defer a.signals.divert(func(sig os.Signal) {
		select {
		case sigs <- sig:
		default: // as with signals in general, too many at once are less
		}
	})()
	if passed := heeded(passedSignals); len(passed) > 0 {
		signal.Notify(sigs, passed...)
		defer signal.Stop(sigs)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // a signal came just before
	}
	cmd := &exec.Cmd{Path: path, Args: argv, Env: env, Stdin: a.in, Stdout: a.raw.out, Stderr: a.raw.err}
	if err := cmd.Start(); err != nil {
		return &exitError{exitNotExecutable, fail.New(fail.Other, "exec", err, "check that this machine can run "+path)}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	lost := ctx.Done()
	for {
		select {
		case sig := <-sigs:
			if !fromTerminal(sig) {
				_ = cmd.Process.Signal(sig) // it may have ended just now
			}
		case <-lost:
			lost = nil
			if !quiet {
				_ = printf(a.err, "bastion: the forwards have ended; %s goes on without them\n", argv[0])
			}
		case err := <-ended:
			if n := endedBy(cmd.ProcessState); n != 0 {
				return &exitError{code: 128 + n}
			}
			if code := cmd.ProcessState.ExitCode(); code != 0 {
				return &exitError{code: code}
			}
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				return fail.New(fail.Other, "exec", err, "")
			}
			return nil
		}
	}
}
