package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/execenv"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/kubernetes"
	"github.com/bastion-ssm/bastion/internal/linkview"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/targets"
)

// login are the options that say who signs in to a database.
type login struct {
	user, iamUser, database string
}

// options are the options that fill l in.
func (l *login) options() []cli.Option {
	return []cli.Option{
		cli.Text(&l.user, "USER", "database user", "user"),
		cli.Text(&l.iamUser, "USER", "database user who signs in with an RDS IAM token, valid for 15 minutes", "iam-user"),
		cli.Text(&l.database, "NAME", "database (default: the one that RDS created, if any)", "database"),
	}
}

func (l login) check() error {
	if l.user != "" && l.iamUser != "" && l.user != l.iamUser {
		return fail.Usagef("leave out --user; --iam-user names the user", "--user and --iam-user name different users")
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

// execOptions are the options of exec that are no settings.
type execOptions struct {
	login

	env        []execenv.Variable
	httpsProxy bool
	yes        bool
}

func (a *app) execCommand() *cli.Command {
	var o execOptions
	return &cli.Command{
		Name:    "exec",
		Summary: "run a program while its databases are forwarded",
		Group:   groupDatabases,
		Args:    "SPEC [LPORT] [SPEC [LPORT]]... -- PROGRAM [ARGUMENT]...", MaxArgs: cli.AnyNumber,
		About: []cli.Passage{
			cli.Para(`Forwards each target to a free local port, or to LPORT, runs the program, and ends the forwards with it. Signals are
				passed on. The exit code is the program's; 128+N if signal N ended it, 127 if it is not found, 126 if it cannot be run.`),
			cli.Para(`The program's environment has the variables of database clients, for the first database of each kind: PGHOST,
				PGHOSTADDR, PGPORT, PGSSLMODE and PGDATABASE; MYSQL_HOST and MYSQL_TCP_PORT; REDIS_URL. It also has, for each target,
				BASTION_<NAME>_HOST, _PORT, _ADDR (both), _URL and _SERVERNAME (the real name). NAME is the target in capitals, with _ for
				all other characters than letters and digits: BASTION_RDS_ORDERS_PORT.`),
			cli.Para(`With a CA bundle (--tls-ca or PGSSLROOTCERT) PGSSLMODE is verify-ca. For PostgreSQL's own programs, and with --hosts,
				it is verify-full and PGHOST is the real name. docs/clients.md has more.`),
		},
		Examples: []string{
			"bastion exec rds:orders -- psql",
			"bastion exec orders --iam-user app --tls-ca global-bundle.pem -- pg_dump --file orders.sql",
			"bastion exec --env DATABASE_URL=orders,node orders -- npm start",
		},
		Flags: append(o.options(), cli.Func("NAME=SPEC[,FORMAT]",
			"variable for a target's connection string, in a format of bastion url (default: uri); may be repeated",
			func(v string) error {
				e, err := execenv.ParseVariable(v)
				o.env = append(o.env, e)
				return err
			}, "env"),
			cli.Switch(&o.httpsProxy, "set HTTPS_PROXY too, to the proxy of the first EKS cluster", "https-proxy"),
			invocation.YesFlag(&o.yes)),
		Settings: []string{config.GroupAWS, config.GroupLink, config.GroupLocal, config.GroupOutput},
		Divided:  true,
		Complete: func([]string) []cli.Candidate { return a.targets() },
		Run:      a.With(func(ctx context.Context, s config.Settings, args []string) error { return a.exec(ctx, s, args, o) }),
	}
}

// exec runs `bastion exec`.
func (a *app) exec(ctx context.Context, s config.Settings, args []string, o execOptions) error {
	args, err := a.inventory().OrPick(ctx, s, len(args) < 2 || args[0] != "--", args)
	if err != nil {
		return err
	}
	pairs, program, err := execenv.Parse(args)
	if err != nil {
		return err
	}
	if err := errors.Join(o.check(), checkCA(s), execenv.Check(o.env, pairs)); err != nil {
		return err
	}
	path, err := process.Find("exec", program[0])
	if err != nil {
		return err
	}
	groups, err := a.execGroups(ctx, s, pairs)
	if err != nil {
		return err
	}
	items := request.Items(groups)
	clusters, others, err := kubernetes.Split(items, o.httpsProxy)
	if err == nil {
		err = execenv.Check(o.env, request.PairsOf(those(items, others)))
	}
	if err != nil {
		return err
	}
	if err := a.ConfirmGroups(ctx, o.yes, groups); err != nil {
		return err
	}
	endpoints, names, tokens, err := a.lookUpForExec(ctx, s, groups, o.iamUser, len(clusters) > 0)
	if err != nil {
		return err
	}
	found, err := kubernetes.Find(a.Invocation, items, endpoints, clusters)
	if err != nil {
		return err
	}
	var outcome error
	ran := false
	err = a.OpenForwards(ctx, s, forwarding.Wanted{Command: "exec", Groups: groups}, func(ctx context.Context, infos []api.Forward, _ []*linkview.Watch) error {
		return names.During(ctx, func() (err error) {
			databases, err := o.databases(those(items, others), those(infos, others), those(tokens, others))
			if err != nil {
				return err
			}
			env, err := a.execEnvironment(s, databases, program[0], o.env)
			if err != nil {
				return err
			}
			more, remove, err := kubernetes.Environment(a.Invocation, s, found, those(infos, clusters), o.httpsProxy)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, remove()) }()
			env = append(env, more...)
			ran = true
			cmd := &exec.Cmd{Path: path, Args: program, Env: env, Stdin: a.In, Stdout: a.Raw.Out, Stderr: a.Raw.Err}
			outcome = a.Signals.Run(ctx, "exec", cmd, func() {
				a.Note(s, "the forwards have ended; %s goes on without them", program[0])
			})
			return outcome
		})
	})
	if ran && !errors.Is(outcome, context.Canceled) {
		return outcome // whatever became of the forwards meanwhile: the program has seen it
	}
	return cmp.Or(err, outcome) // the forwards ended before the program began
}

// execGroups returns the requests for the targets of exec, in groups of settings.
func (a *app) execGroups(ctx context.Context, s config.Settings, pairs []targets.Pair) ([]request.Group, error) {
	pairs, err := a.WorkOut(ctx, "exec", s, pairs)
	if err == nil {
		pairs, err = a.EachBroker(ctx, "exec", s, pairs)
	}
	if err != nil {
		return nil, err
	}
	return request.For(pairs, s, a.SettingsOf)
}

// lookUpForExec looks up the targets before they are forwarded, if something needs that: their names, which the requests then listen for,
// and a token for each. All may be nil.
func (a *app) lookUpForExec(ctx context.Context, s config.Settings, groups []request.Group, iamUser string, needed bool,
) ([]targets.Endpoint, *forwarding.HostNames, []string, error) {
	if !needed && !s.Forward.Hosts && iamUser == "" {
		return nil, nil, nil, nil
	}
	endpoints, tokens, err := a.LookUp(ctx, "exec", groups, iamUser)
	if err != nil || !s.Forward.Hosts {
		return endpoints, nil, tokens, err
	}
	names, err := forwarding.PlanHosts(ctx, s, endpoints, request.Items(groups))
	return endpoints, names, tokens, err
}

// execEnvironment is the environment of a program. What the user should know of it is said.
func (a *app) execEnvironment(s config.Settings, databases []dsn.Database, program string, named []execenv.Variable) ([]string, error) {
	for i := range databases {
		databases[i].Separates = dsn.SeparatesName(program)
	}
	env, notes := execenv.Add(os.Environ(), databases)
	more, err := execenv.Set(named, databases, os.Getenv)
	if err != nil {
		return nil, err
	}
	for _, note := range notes {
		a.Note(s, "%s", note)
	}
	return append(env, more...), nil
}

// databases describes the forwards to their clients. tokens may be nil.
func (l login) databases(items []request.Item, infos []api.Forward, tokens []string) ([]dsn.Database, error) {
	out := make([]dsn.Database, len(infos))
	for i, info := range infos {
		d, err := dsn.New(request.NameOf(items[i].Pair), info, items[i].Settings)
		if err != nil {
			return nil, err
		}
		d.User = l.user
		if l.database != "" {
			d.Database = l.database
		}
		if i < len(tokens) && tokens[i] != "" {
			d.User, d.Password = l.iamUser, tokens[i]
		}
		out[i] = d
	}
	return out, nil
}

// those returns the elements at the given places; of nothing, nothing.
func those[T any](all []T, at []int) []T {
	if all == nil {
		return nil
	}
	out := make([]T, len(at))
	for i, n := range at {
		out[i] = all[n]
	}
	return out
}
