package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// Exit codes of the lab itself, out of the way of those of the command that it runs.
const (
	exitUsage    = 2
	exitLab      = 125 // the lab could not start
	exitCannot   = 126 // the command could not be run
	exitNotFound = 127 // there is no such command
)

// stdio are the standard streams.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// exitError ends the program with a code; it may have nothing more to say.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e exitError) Unwrap() error { return e.err }

// run runs the command line and returns the exit code.
func run(args []string, std stdio, signals <-chan os.Signal) int {
	p := &program{stdio: std, signals: signals}
	err := p.app().Run(args)
	if err == nil {
		return 0
	}
	code := exitUsage
	if e, ok := errors.AsType[exitError](err); ok {
		code = e.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(std.err, "bastion-lab:", text)
	}
	return code
}

type program struct {
	stdio
	signals <-chan os.Signal
}

func (p *program) app() *cli.App {
	// The message is enough: the help would hide it.
	badUsage := func(_ *cli.Context, err error, _ bool) error { return err }
	app := &cli.App{
		Name:  "bastion-lab",
		Usage: "a local AWS for bastion: ECS, SSM, RDS, ElastiCache, and a database and a cache behind them",
		Description: `Everything stays on this machine's loopback addresses. The account, its credentials and its names are
made up.

bastion-lab run -- sh -c 'bastion forward rds:5432 12345'   run one command in a lab
bastion-lab up > lab.env &  then  . ./lab.env               keep a lab
bastion-lab query redis://127.0.0.1:16379 "GET greeting"    ask a database, without its own client`,
		Commands: []*cli.Command{
			{
				Name: "run", Usage: "run a command with the lab as its AWS; the lab ends with it",
				ArgsUsage: "-- COMMAND [ARGUMENT...]", Flags: labFlags(), Action: p.runCommand,
				Description: `The command gets AWS_ENDPOINT_URL, AWS_PROFILE, AWS_CONFIG_FILE and so on; AWS_ variables of your
own are taken away. The exit code is the command's; 125 if the lab cannot start, 126 or 127 if the command cannot.

bastion-lab run -- bastion forward rds:5432 12345
bastion-lab run --kms --state-delay 2s -- bastion up
bastion-lab run --faults '{"drop":0.01}' -- ./my-test.sh`,
			},
			{
				Name: "up", Usage: "start a lab and stay until a signal ends it",
				Flags: append(labFlags(), outputFlag()), Action: p.up,
				Description: `Prints the environment for programs that are to use the lab, once it is up:

bastion-lab up > lab.env &      then:  . ./lab.env; aws --endpoint-url $AWS_ENDPOINT_URL ecs list-clusters
bastion-lab up -o json          for programs`,
			},
			{
				Name: "query", Usage: "send a statement to a PostgreSQL or a Redis and print the answer",
				ArgsUsage: "URL STATEMENT", Flags: []cli.Flag{outputFlag()}, Action: p.query,
				Description: "bastion-lab query postgres://" + lab.DBUser + ":" + lab.DBPassword +
					`@127.0.0.1:12345/orders 'SELECT * FROM orders'
bastion-lab query redis://127.0.0.1:16379 'GET greeting'`,
			},
			{Name: "version", Usage: "print the version", Action: p.version},
		},
		Reader: p.in, Writer: p.out, ErrWriter: p.err,
		HideHelpCommand: true, HideVersion: true,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("no such command: %q; bastion-lab --help lists the commands", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		ExitErrHandler: func(*cli.Context, error) {}, // run prints and chooses the code
		OnUsageError:   badUsage,
	}
	for _, c := range app.Commands {
		c.OnUsageError, c.HideHelpCommand = badUsage, true
	}
	return app
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "`FORMAT` of the answer: text or json"}
}

// labFlags are the flags of the commands that start a lab. Each is also a variable BASTION_LAB_NAME.
func labFlags() []cli.Flag {
	return slices.Concat(accountFlags(), taskFlags(), []cli.Flag{
		&cli.StringFlag{Name: "faults", EnvVars: variable("faults"), Usage: "faults of the data channel as `JSON` (docs/lab.md)"},
		&cli.StringFlag{Name: "api-faults", EnvVars: variable("api-faults"), Usage: "faults of the API as `JSON` (docs/lab.md)"},
		&cli.BoolFlag{
			Name: "verbose", DisableDefaultText: true, Aliases: []string{"v"}, EnvVars: variable("verbose"),
			Usage: "log what the lab does to stderr",
		},
		&cli.BoolFlag{
			Name: "quiet", DisableDefaultText: true, Aliases: []string{"q"}, EnvVars: variable("quiet"),
			Usage: "say nothing but errors",
		},
	})
}

// accountFlags are the flags for the account and what stands in it.
func accountFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "bastiond", EnvVars: variable("bastiond"), TakesFile: true,
			Usage: "`PATH` of the program that tasks run (default: beside this program, or in PATH)",
		},
		&cli.StringFlag{
			Name: "listen", EnvVars: variable("listen"), Value: "127.0.0.1:0",
			Usage: "loopback `ADDRESS` of all the APIs; port 0 is a free one",
		},
		&cli.StringFlag{
			Name: "region", EnvVars: variable("region"), Value: lab.Region,
			Usage: "`REGION` of the account; ARNs and names are those of its partition",
		},
		&cli.StringFlag{
			Name: "databases", EnvVars: variable("databases"), Value: "auto",
			Usage: "`MODE`: auto (real servers where installed), real, embedded or off",
		},
		&cli.IntFlag{
			Name: "shared", EnvVars: variable("shared"),
			Usage: "`NUMBER` of tasks of the service \"bastion\" that people share (shared_service), in place of tasks of their own",
		},
		&cli.BoolFlag{
			Name: "kms", DisableDefaultText: true, EnvVars: variable("kms"),
			Usage: "encrypt exec and shell sessions with a KMS key",
		},
	}
}

// taskFlags are the flags for the tasks and the managed nodes.
func taskFlags() []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{
			Name: "state-delay", EnvVars: variable("state-delay"), Value: 300 * time.Millisecond,
			Usage: "`DURATION` for which a task is PROVISIONING, PENDING and ACTIVATING each",
		},
		&cli.DurationFlag{
			Name: "exec-delay", EnvVars: variable("exec-delay"), Value: 300 * time.Millisecond,
			Usage: "`DURATION` from RUNNING until a task's exec agent is RUNNING",
		},
		&cli.DurationFlag{
			Name: "connect-delay", EnvVars: variable("connect-delay"), Value: 200 * time.Millisecond,
			Usage: "`DURATION` from there until the exec agent answers",
		},
		&cli.StringSliceFlag{
			Name: "task-env", EnvVars: variable("task-env"),
			Usage: "`NAME=VALUE` for the tasks, such as BASTIOND_IDLE_STOP=1m",
		},
		&cli.StringSliceFlag{
			Name: "task-role-deny", EnvVars: variable("task-role-deny"),
			Usage: "`ACTION` that the tasks' role may not do, such as kms:Decrypt",
		},
		&cli.StringSliceFlag{
			Name: "allow", EnvVars: variable("allow"), Usage: "`HOST:PORT` that the tasks may reach, besides the lab's own databases",
		},
		&cli.StringSliceFlag{
			Name: "instance", EnvVars: variable("instance"),
			Usage: "`ID:PORT=ADDRESS`: a managed node whose port is a loopback address of this machine, such as " +
				"i-0123:22=127.0.0.1:2200",
		},
		&cli.BoolFlag{
			Name: "allow-host-exec", DisableDefaultText: true, EnvVars: variable("allow-host-exec"),
			Usage: "let ECS Exec run any command of this machine; otherwise it runs bastiond alone",
		},
	}
}

// variable returns the name of a flag's variable.
func variable(name string) []string {
	return []string{"BASTION_LAB_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))}
}

// start starts a lab by the flags, and introduces it.
func (p *program) start(ctx context.Context, c *cli.Context) (*lab.Lab, error) {
	cfg, err := p.config(c)
	if err != nil {
		return nil, err
	}
	var dataFaults gateway.Faults
	var apiFaults lab.APIFaults
	if err := parseJSON(c.String("faults"), &dataFaults); err != nil {
		return nil, fmt.Errorf("--faults: %w", err)
	}
	if err := parseJSON(c.String("api-faults"), &apiFaults); err != nil {
		return nil, fmt.Errorf("--api-faults: %w", err)
	}
	l, err := lab.Start(ctx, cfg)
	if err != nil {
		return nil, exitError{exitLab, err}
	}
	if err := errors.Join(l.Gateway().SetFaults(dataFaults), l.SetAPIFaults(apiFaults)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if !c.Bool("quiet") {
		p.introduce(l)
	}
	return l, nil
}

func (p *program) config(c *cli.Context) (lab.Config, error) {
	bastiond, err := findBastiond(c.String("bastiond"))
	if err != nil {
		return lab.Config{}, err
	}
	mode := vpc.Mode(c.String("databases"))
	switch mode {
	case vpc.Auto, vpc.Real, vpc.Embedded, lab.Off:
	default:
		return lab.Config{}, fmt.Errorf("--databases is auto, real, embedded or off, not %q", mode)
	}
	level := slog.LevelWarn
	switch {
	case c.Bool("verbose"):
		level = slog.LevelDebug
	case c.Bool("quiet"):
		level = slog.LevelError
	}
	cfg := lab.Config{
		Region: c.String("region"), Listen: c.String("listen"), Bastiond: bastiond, AllowHostExec: c.Bool("allow-host-exec"),
		Log:        slog.New(slog.NewTextHandler(p.err, &slog.HandlerOptions{Level: level})),
		StateDelay: delay(c, "state-delay"), ExecDelay: delay(c, "exec-delay"), ConnectDelay: delay(c, "connect-delay"),
		KMS: c.Bool("kms"), Shared: c.Int("shared"), Postgres: mode, Redis: mode, Allow: c.StringSlice("allow"),
		TaskRoleDeny: c.StringSlice("task-role-deny"), TaskEnv: make(map[string]string), Instances: make(map[string]lab.Instance),
	}
	for _, kv := range c.StringSlice("task-env") {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return lab.Config{}, fmt.Errorf("--task-env %q is not NAME=VALUE", kv)
		}
		cfg.TaskEnv[name] = value
	}
	for _, s := range c.StringSlice("instance") {
		if err := addInstance(cfg.Instances, s); err != nil {
			return lab.Config{}, err
		}
	}
	return cfg, nil
}

// delay returns the value of a flag for lab.Config, where 0 would be the default.
func delay(c *cli.Context, name string) time.Duration {
	if d := c.Duration(name); d > 0 {
		return d
	}
	return -1
}

// addInstance reads ID:PORT=ADDRESS.
func addInstance(instances map[string]lab.Instance, s string) error {
	left, addr, ok := strings.Cut(s, "=")
	id, port, ok2 := strings.Cut(left, ":")
	n, err := strconv.ParseUint(port, 10, 16)
	if !ok || !ok2 || id == "" || err != nil {
		return fmt.Errorf("--instance %q is not ID:PORT=ADDRESS", s)
	}
	if err := vpc.CheckLoopback(addr); err != nil {
		return fmt.Errorf("--instance %s: %w", s, err)
	}
	if instances[id].Ports == nil {
		instances[id] = lab.Instance{Ports: make(map[int]string)}
	}
	instances[id].Ports[int(n)] = addr
	return nil
}

// findBastiond returns the path of bastiond: as given, else beside this program, else in PATH.
func findBastiond(given string) (string, error) {
	name := "bastiond"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if given != "" {
		if fi, err := os.Stat(given); err != nil || fi.IsDir() {
			return "", exitError{exitLab, fmt.Errorf("--bastiond %s is no program", given)}
		}
		return filepath.Abs(given)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if fi, err := os.Stat(beside); err == nil && !fi.IsDir() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", exitError{exitLab, errors.New("bastiond is neither beside this program nor in PATH: " +
			"build it (make build) or give --bastiond")}
	}
	return filepath.Abs(path)
}

// introduce prints the lab's parts, above all which databases are real and which are stand-ins.
func (p *program) introduce(l *lab.Lab) {
	fmt.Fprintf(p.err, "lab: AWS is %s, the made-up account %s in %s\n", l.URL(), l.Account(), l.Region())
	for _, d := range l.Databases() {
		what := d.Version
		if d.Embedded {
			what += " (EMBEDDED: a stand-in for the real server)"
		}
		fmt.Fprintf(p.err, "lab: %s is %s\n", d.Name, what)
	}
	if u := l.WebURL(); u != "" {
		fmt.Fprintf(p.err, "lab: %s is an internal web site\n", u)
	}
}

// parseJSON reads the value of a flag strictly; an empty one is the zero value.
func parseJSON(text string, dst any) error {
	if text == "" {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(dst); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("more than one JSON value")
	}
	return nil
}

// environment is what programs need to use the lab.
func environment(l *lab.Lab) []string {
	env := append(l.Env(), "BASTION_LAB_URL="+l.URL(), "BASTION_LAB_DATABASE_CA="+l.DatabaseCA())
	env = append(env, agentEnv(l)...)
	if u := l.WebURL(); u != "" {
		env = append(env, "BASTION_LAB_WEB="+u)
	}
	return env
}

func (p *program) runCommand(c *cli.Context) (err error) {
	if c.NArg() == 0 {
		return errors.New("run needs a command: bastion-lab run -- COMMAND")
	}
	path, err := exec.LookPath(c.Args().First())
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return exitError{exitNotFound, err}
	} else if err != nil {
		return exitError{exitCannot, err}
	}
	l, stop, err := p.startUnlessEnded(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAgent(l), l.Close()) }()
	defer stop()

	cmd := exec.Command(path, c.Args().Tail()...)
	cmd.Args[0] = c.Args().First()
	cmd.Env = append(l.Environ(os.Environ()), environment(l)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, p.out, p.err
	if err := cmd.Start(); err != nil {
		return exitError{exitCannot, err}
	}
	p.relay(cmd)
	if code := exitCode(cmd.ProcessState); code != 0 {
		return exitError{code: code}
	}
	return nil
}

// startUnlessEnded starts a lab; a signal that comes before it is up ends the start. The returned function must be
// called.
func (p *program) startUnlessEnded(c *cli.Context) (*lab.Lab, func(), error) {
	ctx, cancel := context.WithCancel(context.Background())
	type outcome struct {
		l   *lab.Lab
		err error
	}
	started := make(chan outcome, 1)
	go func() {
		l, err := p.start(ctx, c)
		started <- outcome{l, err}
	}()
	select {
	case o := <-started:
		return o.l, cancel, o.err
	case sig := <-p.signals:
		cancel()
		o := <-started
		if o.l != nil {
			o.err = errors.Join(o.err, o.l.Close())
		}
		return nil, cancel, exitError{codeOf(sig), nil}
	}
}

// up starts a lab and waits for a signal.
func (p *program) up(c *cli.Context) (err error) {
	output := c.String("output")
	if output != "text" && output != "json" {
		return fmt.Errorf("--output is text or json, not %q", output)
	}
	if c.NArg() > 0 {
		return fmt.Errorf("up takes no arguments: %q", c.Args().Slice())
	}
	l, stop, err := p.startUnlessEnded(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAgent(l), l.Close()) }()
	defer stop()
	if output == "json" {
		err = p.printState(l)
	} else {
		err = p.printEnv(l)
	}
	if err != nil {
		return exitError{exitLab, err}
	}
	if !c.Bool("quiet") {
		fmt.Fprintln(p.err, "lab: up until a signal ends it (Ctrl-C)")
	}
	<-p.signals
	return nil
}

func (p *program) printEnv(l *lab.Lab) error {
	var text strings.Builder
	for _, kv := range environment(l) {
		name, value, _ := strings.Cut(kv, "=")
		fmt.Fprintf(&text, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	_, err := io.WriteString(p.out, text.String())
	return err
}

func (p *program) printState(l *lab.Lab) error {
	env := make(map[string]string)
	for _, kv := range environment(l) {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	enc := json.NewEncoder(p.out)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		URL       string            `json:"url"`
		Env       map[string]string `json:"env"`
		Databases []lab.Database    `json:"databases"`
		Resolver  string            `json:"resolver"`
		Web       string            `json:"web,omitempty"`
	}{l.URL(), env, l.Databases(), l.Resolver().String(), l.WebURL()})
}

// buildVersion is set by the linker (-X main.buildVersion=v1.2.3) for releases.
var buildVersion string

func (p *program) version(*cli.Context) error {
	v := buildVersion
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	v = cmp.Or(v, "(devel)")
	_, err := fmt.Fprintf(p.out, "bastion-lab %s (%s, %s/%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
