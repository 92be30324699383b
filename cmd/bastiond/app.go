package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/server"
)

// Exit codes. Those of `bastiond grant` are in its reply too, since ECS Exec does not pass them on.
const (
	exitOK     = 0
	exitFailed = 1 // could not listen or go on; the grant was refused; not healthy
	exitUsage  = 2 // wrong arguments or settings
)

// buildVersion is set by the linker (-X main.buildVersion=v1.2.3) for releases.
var buildVersion string

func version() string {
	if buildVersion != "" {
		return buildVersion
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

const envPrefix = "BASTIOND_"

const (
	off           = "off"   // the bond-listen that means none
	maxBondMemory = 1 << 20 // MiB: beyond what any task has
)

// limitFile is the image's own list of destinations. Its place is no setting, because those who may start a task, or
// run a command in one, can change every setting.
const limitFile = "/etc/bastiond/allow"

const maxLimitFile = 1 << 20

// OpenSSH serves the SSH port where the image has its configuration. Its place is no setting, for the same reason.
const (
	sshdConfig  = "/etc/bastiond/sshd_config"
	sshdProgram = "/usr/sbin/sshd"
	selfProgram = "/bastiond"
)

const description = `Every setting is a flag or an environment variable; the flag wins. Destinations are a list of
HOST:PORT, separated by commas or spaces. HOST is a name with the wildcards * and ?, an IP address (IPv6 in brackets),
a CIDR, or * alone; PORT is a number, a range FROM-TO or *. Nothing listed means nothing is permitted. Instance
metadata, task credentials and link-local addresses can never be permitted; loopback addresses and the VPC's resolver
only by an entry that names the address itself. Durations are written as 90s, 30m, 12h.

Where the image has a list of its own, in the file /etc/bastiond/allow, a destination must be on both lists, and that
one is the default: whoever starts the task can narrow what the image allows, and not widen it.

Where the image has the file /etc/bastiond/sshd_config, OpenSSH's server takes the place of bastiond's own: destinations are
then single names or addresses with one port, and there is no bond port.

The audit log, one JSON object per line, goes to standard output; everything else goes to standard error.

Exit codes: 0 stopped as asked (idle, maximum life, SIGTERM); 1 failed, grant refused, or not healthy; 2 wrong arguments
or settings. SIGTERM drains; a second one ends at once.`

// run is the program: drain begins the end of `serve`, end is the end.
func run(drain, end context.Context, args, environ []string, stdout, stderr io.Writer) int {
	a := &app{
		drain: drain, end: end, environ: environ, stdout: stdout, stderr: printable.NewWriter(stderr),
		limitFile: limitFile, sshdConfig: sshdConfig,
	}
	return a.run(args)
}

func (a *app) run(args []string) int {
	err := a.cli().RunContext(a.end, args)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailed
	}
	_, _ = fmt.Fprintln(a.stderr, "bastiond:", err)
	if errors.As(err, new(*usageError)) || errors.As(err, new(*server.ConfigError)) {
		_, _ = fmt.Fprintln(a.stderr, "run `bastiond help` for the settings")
		return exitUsage
	}
	return exitFailed
}

type app struct {
	drain, end     context.Context
	environ        []string
	stdout, stderr io.Writer
	limitFile      string
	sshdConfig     string
}

// A usageError is the caller's mistake.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// errReported is a failure of which everything has been said.
var errReported = errors.New("reported")

func (a *app) cli() *cli.App {
	socket := &cli.StringFlag{
		Name: "socket", Usage: "`PATH` of the control socket, in a directory of mode 0700, or 0710 with root's group",
		Value: server.DefaultSocket, EnvVars: variables("socket"),
	}
	serve := a.serveFlags(socket)
	badUsage := func(_ *cli.Context, err error, _ bool) error { return &usageError{err} }
	c := &cli.App{
		Name:           "bastiond",
		Usage:          "forward TCP connections inside a VPC, for granted SSH keys, to permitted destinations",
		UsageText:      "bastiond [serve] [flags]\nbastiond grant WORD\nbastiond authorized-key USER TYPE KEY\nbastiond healthcheck",
		Description:    description,
		Version:        version(),
		HideVersion:    true,
		Flags:          serve,
		Action:         a.serve,
		OnUsageError:   badUsage,
		ExitErrHandler: func(*cli.Context, error) {},
		Writer:         a.stdout,
		ErrWriter:      a.stderr,
		Commands: []*cli.Command{
			{Name: "serve", Usage: "serve until idle, too old or told to stop (the default)", Flags: serve, Action: a.serve},
			{
				Name: "grant", Usage: "accept a key: hand the grant WORD to the server, print its reply as one marked line",
				ArgsUsage: "WORD", Flags: []cli.Flag{socket}, Action: a.grant,
			},
			{
				Name: "authorized-key", Usage: "print the line of authorized_keys of a granted key, for sshd's AuthorizedKeysCommand",
				ArgsUsage: "USER TYPE KEY", Flags: []cli.Flag{socket}, Action: a.authorizedKey,
			},
			{
				Name: "healthcheck", Usage: "ask the server how it is; exit 1 if it does not answer",
				Flags: []cli.Flag{socket}, Action: a.healthcheck,
			},
			{
				Name: "version", Usage: "print the version",
				Action: func(*cli.Context) error { return a.println(version()) },
			},
		},
	}
	for _, command := range c.Commands {
		command.OnUsageError = badUsage
	}
	return c
}

func (a *app) println(line string) error {
	_, err := fmt.Fprintln(a.stdout, line)
	return err
}

// variables returns the environment variable of a flag.
func variables(flag string) []string {
	return []string{envPrefix + strings.ReplaceAll(strings.ToUpper(flag), "-", "_")}
}

func (a *app) serveFlags(socket cli.Flag) []cli.Flag {
	text := func(name, value, usage string) cli.Flag {
		return &cli.StringFlag{Name: name, Value: value, Usage: usage, EnvVars: variables(name)}
	}
	duration := func(name string, value time.Duration, usage string) cli.Flag {
		return &cli.DurationFlag{Name: name, Value: value, Usage: usage, EnvVars: variables(name)}
	}
	number := func(name string, value int, usage string) cli.Flag {
		return &cli.IntFlag{Name: name, Value: value, Usage: usage, EnvVars: variables(name)}
	}
	return []cli.Flag{
		text("allow", "", "`DESTINATIONS` that may be connected to"),
		text("listen", server.DefaultListen, "loopback `ADDRESS`; localhost is 127.0.0.1 and ::1, port 0 picks a free one"),
		text("bond-listen", server.DefaultBondListen,
			"loopback `ADDRESS` for connections over many SSM sessions, in the same form; off: none"),
		text("resolver", "", "`IP:PORT` of the DNS server to ask (default: the system's)"),
		socket,
		duration("idle-stop", server.DefaultIdleStop, "stop after this `TIME` without a connection; 0: never"),
		duration("idle-conn", 0, "end forwarded connections that carried nothing, and clients that had none, for this `TIME`; 0: never"),
		duration("max-life", server.DefaultMaxLife, "stop after this `TIME` at the latest; no grant lasts longer"),
		duration("drain", server.DefaultDrain, "`TIME` that clients get to finish before the end; 0: none"),
		duration("client-timeout", server.DefaultClientTimeout, "`TIME` without an answer after which a client is gone"),
		duration("handshake-timeout", server.DefaultHandshakeTimeout, "`TIME` that a client has to authenticate"),
		duration("resolve-timeout", server.DefaultResolveTimeout, "`TIME` that a name may take to resolve"),
		duration("dial-timeout", server.DefaultDialTimeout, "`TIME` that a destination may take to answer"),
		number("max-conns", server.DefaultMaxConns, "`NUMBER` of SSH connections"),
		number("max-channels", server.DefaultMaxChannels, "`NUMBER` of forwarded connections, about 2 MiB each at worst"),
		number("max-channels-per-conn", server.DefaultMaxChannelsPerConn,
			"`NUMBER` of forwarded connections of one SSH connection"),
		number("max-grants", server.DefaultMaxGrants, "`NUMBER` of keys granted at a time"),
		duration("bond-linger", server.DefaultBondLinger,
			"`TIME` that such a connection waits for a client of which no session is left"),
		number("bond-memory", server.DefaultBondMemory>>20, "`MIB` of memory that such connections may use, all together"),
		number("bond-max-conns", server.DefaultBondMaxConns, "`NUMBER` of such connections"),
		number("bond-max-subflows", server.DefaultBondMaxSubflows, "`NUMBER` of sessions of one such connection"),
		text("cgroup", server.DefaultCgroup, "`DIR` where the kernel shows what the task may use and does"),
		text("log-level", "info", "`LEVEL` of what goes to standard error: debug, info, warn or error"),
	}
}

func (a *app) serve(c *cli.Context) error {
	if c.Args().Present() {
		return &usageError{fmt.Errorf("unknown command or argument %q", c.Args().First())}
	}
	if c.Command.Name == "serve" && c.Lineage()[1].NumFlags() > 0 {
		return &usageError{errors.New("put the flags after `serve`")} // there they would be read, here they would not
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return &usageError{err}
	}
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	for _, name := range unknownVariables(a.environ, c.App.Flags) {
		log.Warn("unknown environment variable is ignored", "name", name)
	}
	config, err := a.config(c, log)
	if err != nil {
		return &usageError{err}
	}
	s, err := server.New(config)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(a.end, func() { _ = s.Close() })
	defer stop()
	return s.Run(a.drain)
}

func (a *app) config(c *cli.Context, log *slog.Logger) (server.Config, error) {
	allow, err := server.ParseAllow(c.String("allow"))
	if err != nil {
		return server.Config{}, fmt.Errorf("allow: %w", err)
	}
	limit, err := readLimit(a.limitFile)
	if err != nil {
		return server.Config{}, err
	}
	if limit != nil && allow.Empty() {
		allow = *limit
	}
	for _, name := range []string{
		"max-life", "client-timeout", "handshake-timeout", "resolve-timeout", "dial-timeout", "bond-linger",
		"idle-stop", "drain",
	} {
		if d := c.Duration(name); d < 0 || d == 0 && name != "idle-stop" && name != "drain" {
			return server.Config{}, fmt.Errorf("%s: %v is out of range", name, d)
		}
	}
	for _, name := range []string{
		"max-conns", "max-channels", "max-channels-per-conn", "max-grants",
		"bond-memory", "bond-max-conns", "bond-max-subflows",
	} {
		if c.Int(name) < 1 {
			return server.Config{}, fmt.Errorf("%s: want at least 1", name)
		}
	}
	if c.Int("bond-memory") > maxBondMemory {
		return server.Config{}, fmt.Errorf("bond-memory: want at most %d MiB", maxBondMemory)
	}
	bondListen := c.String("bond-listen")
	if bondListen == off {
		bondListen = ""
	}
	if c.String("socket") == "" {
		return server.Config{}, errors.New("socket: want a path")
	}
	openSSH, err := a.openSSH()
	if err != nil {
		return server.Config{}, err
	}
	if openSSH != nil {
		bondListen = ""
	}
	return server.Config{
		Listen: c.String("listen"), BondListen: bondListen, Allow: allow, Limit: limit, Resolver: c.String("resolver"),
		Socket: c.String("socket"), SSHD: openSSH,
		IdleConn: c.Duration("idle-conn"),
		IdleStop: orNever(c.Duration("idle-stop")), MaxLife: c.Duration("max-life"), Drain: orNever(c.Duration("drain")),
		ResolveTimeout: c.Duration("resolve-timeout"), DialTimeout: c.Duration("dial-timeout"),
		HandshakeTimeout: c.Duration("handshake-timeout"), ClientTimeout: c.Duration("client-timeout"),
		MaxConns: c.Int("max-conns"), MaxChannels: c.Int("max-channels"),
		MaxChannelsPerConn: c.Int("max-channels-per-conn"), MaxGrants: c.Int("max-grants"),
		BondLinger: c.Duration("bond-linger"), BondMemory: c.Int("bond-memory") << 20,
		BondMaxConns: c.Int("bond-max-conns"), BondMaxSubflows: c.Int("bond-max-subflows"),
		Cgroup: c.String("cgroup"), Metadata: variable(a.environ, "ECS_CONTAINER_METADATA_URI_V4"),
		KeepMemoryLimit: variable(a.environ, "GOMEMLIMIT") != "",
		Version:         version(), Audit: a.stdout, Logger: log,
	}, nil
}

// openSSH returns how OpenSSH serves the SSH port; nil if the image does not have it.
func (a *app) openSSH() (*server.SSHD, error) {
	_, err := os.Stat(a.sshdConfig)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &server.SSHD{Program: sshdProgram, Config: a.sshdConfig, Self: selfProgram}, nil
}

// variable returns the value of an environment variable, "" if it is not set.
func variable(environ []string, name string) string {
	for _, kv := range environ {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// readLimit reads the image's list; nil if there is none.
func readLimit(path string) (*server.Allow, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxLimitFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxLimitFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, maxLimitFile)
	}
	limit, err := server.ParseAllow(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &limit, nil
}

// orNever turns the 0 of a flag into the server's word for it.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// unknownVariables returns the names in environ that look like settings and are none: typing errors, most likely.
func unknownVariables(environ []string, flags []cli.Flag) []string {
	var known, unknown []string
	for _, f := range flags {
		if f, ok := f.(cli.DocGenerationFlag); ok {
			known = append(known, f.GetEnvVars()...)
		}
	}
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, envPrefix) && !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// grant prints a reply whatever happens: the line is all that comes back through ECS Exec.
func (a *app) grant(c *cli.Context) error {
	if c.NArg() != 1 {
		return &usageError{errors.New("grant: want one WORD")}
	}
	reply, err := server.PushGrant(a.end, c.String("socket"), c.Args().First())
	if err != nil {
		reply = keys.GrantReply{V: keys.ReplyVersion, Version: version(), Code: keys.CodeNoServer, Error: err.Error()}
	}
	if err := a.println(reply.Line()); err != nil {
		return err
	}
	if reply.Error != "" {
		return errReported
	}
	return nil
}

// authorizedKey prints nothing for a key without a grant, which sshd then refuses.
func (a *app) authorizedKey(c *cli.Context) error {
	if c.NArg() != 3 {
		return &usageError{errors.New("authorized-key: want USER TYPE KEY")}
	}
	line, err := server.AuthorizedKey(a.end, c.String("socket"), c.Args().Get(0), c.Args().Get(1), c.Args().Get(2))
	if err != nil || line == "" {
		return err
	}
	return a.println(line)
}

func (a *app) healthcheck(c *cli.Context) error {
	if c.Args().Present() {
		return &usageError{errors.New("healthcheck: takes no arguments")}
	}
	health, err := server.CheckHealth(a.end, c.String("socket"))
	if err != nil {
		return err
	}
	text, err := json.Marshal(health)
	if err != nil {
		return err
	}
	return a.println(string(text))
}
