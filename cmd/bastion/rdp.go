package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/linkview"
	"github.com/bastion-ssm/bastion/internal/rdp"
	"github.com/bastion-ssm/bastion/targets"
)

// rdpOptions are the options of rdp that are no settings.
type rdpOptions struct {
	user, key, file string
	show, yes       bool
}

func (a *app) rdpCommand() *cli.Command {
	var o rdpOptions
	return &cli.Command{
		Name:    "rdp",
		Summary: "open the desktop of a Windows instance",
		Group:   groupConnect,
		Args:    "INSTANCE [-- CLIENT-OPTION...]", MinArgs: 1, MaxArgs: cli.AnyNumber,
		About: []cli.Passage{
			cli.Para(`Forwards a free local port to the instance's remote desktop (3389), and starts the RDP client: mstsc on Windows, the
				Windows App on macOS, else FreeRDP. The forward ends with the client. With --file it writes the .rdp file for another
				client, and ends with Ctrl-C.`),
			cli.Terms("INSTANCE",
				"the id of an EC2 instance, its Name tag or private address; HOST; a name from the configuration; :PORT may follow"),
			cli.Para(`With --key it asks EC2 for the administrator's password, which the key decrypts. FreeRDP gets it on its standard
				input. Other clients ask for it: --show-password prints it, at a terminal only. It is never in a file or on a command line.`),
		},
		Examples: []string{
			"bastion rdp i-0123456789abcdef0 --key windows.pem",
			"bastion rdp build-server --user 'CORP\\ann'",
			"bastion rdp 10.0.12.7 --file desktop.rdp",
		},
		Flags: []cli.Option{
			cli.Text(&o.user, "USER", "Windows user (default: "+rdp.DefaultUser+")", "user"),
			cli.Text(&o.key, "FILE", "private key of the instance's key pair, for the administrator's password", "key"),
			cli.Switch(&o.show, "print the password that --key decrypts, at a terminal", "show-password"),
			cli.Text(&o.file, "FILE", "write the .rdp file to FILE, and start no client", "file"),
			invocation.YesFlag(&o.yes),
		},
		Settings: []string{config.GroupAWS, config.GroupLink, config.GroupOutput},
		Run:      a.With(func(ctx context.Context, s config.Settings, args []string) error { return a.rdp(ctx, s, args, o) }),
	}
}

// desktop is what rdp opens.
type desktop struct {
	text   string // INSTANCE
	spec   targets.Spec
	user   string
	key    *rdp.Key    // nil: none
	client *rdp.Client // nil: a file is written
}

// rdp runs `bastion rdp`. What can be wrong on this machine is found before anything is asked of AWS.
func (a *app) rdp(ctx context.Context, s config.Settings, args []string, o rdpOptions) error {
	s, name, err := a.Scoped(s, args[0])
	if err != nil {
		return err
	}
	d, err := a.desktop(s, append([]string{name}, args[1:]...), o)
	if err != nil {
		return err
	}
	pairs, err := a.WorkOut(ctx, "rdp", s, []targets.Pair{{Target: d.spec}})
	if err != nil {
		return err
	}
	if s, err = request.SettingsOf(pairs[0], s, a.SettingsOf); err != nil {
		return err
	}
	if err := a.Confirm(ctx, o.yes, s); err != nil {
		return err
	}
	endpoint, password, err := a.findDesktop(ctx, s, d)
	if err != nil {
		return err
	}
	if o.show {
		if err := a.PrintExact("the password", password, "read it from the EC2 console"); err != nil {
			return err
		}
	}
	r := api.ForwardRequest{Kind: api.KindTCP, Target: access.Destination(endpoint.Host, endpoint.Port), Listen: ":"}
	if name := "rdp-" + request.Name(targets.Spec{Kind: targets.Name, ID: d.spec.ID}); d.spec.ID != "" && forwards.ValidName(name) {
		r.Name = name
	}
	return a.OpenForwards(ctx, s, forwarding.Wanted{Command: "rdp", Groups: request.One(s, r)},
		func(ctx context.Context, open []api.Forward, watches []*linkview.Watch) error {
			addr, err := netip.ParseAddrPort(open[0].Listen)
			if err != nil {
				return fail.New(fail.Other, "read the forward's address", err, "")
			}
			if d.client == nil {
				return a.serveDesktop(ctx, s, o.file, addr, d)
			}
			if password != "" && !d.client.TakesPassword() && !o.show {
				watches[0].Progress.Note(filepath.Base(d.client.Program) + " asks for the password; --show-password prints it")
			}
			return a.runClient(ctx, s, addr, d, password, args[1:])
		})
}

// desktop checks the command line.
func (a *app) desktop(s config.Settings, args []string, o rdpOptions) (d desktop, err error) {
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") && !strings.HasPrefix(args[1], "/") && !strings.HasPrefix(args[1], "+") {
		return d, fail.Usagef("usage: bastion rdp INSTANCE [-- CLIENT-OPTION...]", "rdp: one instance at a time, not %q too", args[1])
	}
	d.text, d.user = args[0], o.user
	if d.user == "" {
		d.user = rdp.DefaultUser
	}
	out, isFile := a.Raw.Out.(*os.File)
	switch {
	case o.show && o.key == "":
		return d, fail.Usagef("name the key with --key FILE", "--show-password needs the key that decrypts the password")
	case o.show && !(isFile && term.IsTerminal(int(out.Fd()))):
		return d, fail.Usagef("leave it out, or run the command in a terminal", "--show-password prints the password at a terminal only")
	}
	if err := rdp.CheckUser(d.user); err != nil {
		return d, err
	}
	if d.spec, err = desktopSpec(args[0], s, o.key != ""); err != nil {
		return d, err
	}
	if o.key != "" {
		if d.key, err = rdp.ReadKey(o.key); err != nil {
			return d, err
		}
	}
	if o.file == "" {
		d.client, err = rdp.Find(rdp.ThisSystem())
	}
	return d, err
}

// desktopSpec reads INSTANCE. asEC2 says that the instance's id is needed, also where its address is given.
func desktopSpec(text string, s config.Settings, asEC2 bool) (targets.Spec, error) {
	spec, err := instanceSpec(text, s, asEC2)
	if err != nil {
		return spec, err
	}
	if spec.Port == 0 {
		spec.Port = rdp.Port
	}
	switch spec.Kind {
	case targets.EC2:
		return spec, nil
	case targets.Host, targets.LoadBalancer, targets.CloudMap:
		if asEC2 {
			return spec, fail.Usagef("name the instance by its id or its Name tag, or leave out --key",
				"--key is for EC2 instances, and %s need not be one", text)
		}
		return spec, nil
	}
	return spec, fail.Usagef("name an instance by its id, its Name tag or its address", "%s has no desktop", text)
}

// instanceSpec is the target that a text means: a name of the configuration; an EC2 instance; or a host.
func instanceSpec(text string, s config.Settings, asEC2 bool) (targets.Spec, error) {
	if named, ok := s.Targets[text]; ok {
		return request.Named(named)
	}
	if spec, err := targets.Parse(text); err == nil && spec.Kind != targets.Name && spec.Kind != targets.Host {
		return spec, nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.Trim(text, "[]"), ""
	}
	addr, err := netip.ParseAddr(host)
	isAddr := err == nil
	switch {
	case access.IsInstance(host), addr.Is4() && asEC2, targets.CheckName(host) == nil && !isAddr:
		text = "ec2:" + host
		if port != "" {
			text += ":" + port
		}
	case port == "" && (isAddr || !strings.Contains(text, ":")):
		text = net.JoinHostPort(host, strconv.Itoa(rdp.Port))
	}
	return targets.Parse(text)
}

// findDesktop finds the instance's address and, with a key, the password.
func (a *app) findDesktop(ctx context.Context, s config.Settings, d desktop) (e targets.Endpoint, password string, err error) {
	if d.spec.Kind == targets.Host {
		return targets.Endpoint{Host: d.spec.Host, Port: d.spec.Port}, "", nil
	}
	run, err := a.Open(ctx, "rdp", s)
	if err != nil {
		return e, "", err
	}
	defer run.Close()
	run.Progress.Step("looking up " + d.spec.String())
	ctx, cancel := invocation.Bounded(ctx, s)
	defer cancel()
	found, err := run.Access.Resolve(ctx, []targets.Spec{d.spec})
	if err != nil {
		return e, "", err
	}
	e = found[0]
	if e.StatusNote != "" {
		run.Progress.Note(e.Name + ": " + e.StatusNote)
	}
	if d.key == nil {
		return e, "", nil
	}
	data, err := run.Access.PasswordData(ctx, e.Instance)
	if err != nil {
		return e, "", err
	}
	password, err = d.key.Decrypt(data)
	return e, password, err
}

// serveDesktop writes the .rdp file and keeps the forward.
func (a *app) serveDesktop(ctx context.Context, s config.Settings, path string, addr netip.AddrPort, d desktop) error {
	if err := files.Replace(path, rdp.File(addr, d.user), 0o600); err != nil {
		return fail.New(fail.Usage, "write the .rdp file "+path, err, "name a file in a directory of yours")
	}
	var err error
	if s.Output.Format == "json" {
		err = a.PrintLine(map[string]any{"file": path, "listen": addr.String(), "user": d.user})
	} else {
		err = console.Printf(a.Out, "%s\n", path)
	}
	if err != nil {
		return err
	}
	a.Note(s, "%s opens the desktop at %s until this command ends", path, addr)
	<-ctx.Done()
	return context.Cause(ctx)
}

// runClient runs the RDP client with a file that lives as long.
func (a *app) runClient(ctx context.Context, s config.Settings, addr netip.AddrPort, d desktop, password string, options []string,
) (err error) {
	path, remove, err := dirs.Temporary(s.Local.RuntimeDir, "rdp-", ".rdp", rdp.File(addr, d.user))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	a.Note(s, "%s opens the desktop of %s at %s", filepath.Base(d.client.Program), d.text, addr)
	return d.client.Run(ctx, path, password, options, a.Err)
}
