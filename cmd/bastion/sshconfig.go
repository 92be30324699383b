package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/block"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/openssh"
)

// maxSSHConfig bounds the file that ssh-config rewrites, in bytes.
const maxSSHConfig = 4 << 20

// sshConfigOptions are the options of ssh-config that are no settings.
type sshConfigOptions struct {
	write, remove bool
	connect       bool
	file          string
}

func (a *app) sshConfigCommand() *cli.Command {
	var o sshConfigOptions
	return &cli.Command{
		Name:    "ssh-config",
		Summary: "print the block that ssh_config needs, or keep it in ~/.ssh/config",
		Group:   groupConnect,
		Args:    "[PATTERN]...",
		MaxArgs: cli.AnyNumber,
		About: []cli.Passage{
			cli.Para(`Prints a block for ssh_config: the bastion's own SSH server, the hosts behind it that match a PATTERN (default:
				*.internal) and EC2 instances by id. The block has this program's path and the options that are given here, for example
				--profile. docs/openssh.md explains it; ssh_config.example is the same with comments.`),
			cli.Para(`ssh compares a PATTERN with the name as typed, without user and port. "!" before a PATTERN excludes its hosts.`),
			cli.Para(`With --write the block is kept at the top of ~/.ssh/config, between "# BEGIN bastion" and "# END bastion". Writing it
				again replaces it; the rest of the file stays as it is.`),
		},
		Examples: []string{
			"bastion ssh-config --write '*.internal' '10.*'",
			"bastion ssh-config --write --profile prod --instance-connect",
			"bastion ssh-config --remove",
		},
		Flags: []cli.Option{
			cli.Switch(&o.write, "add the block to the file, or replace the one there", "write"),
			cli.Switch(&o.remove, "remove the block from the file", "remove"),
			cli.Switch(&o.connect, "sign in to EC2 instances with an ephemeral key, by EC2 Instance Connect", "instance-connect"),
			cli.Text(&o.file, "FILE", "file that --write and --remove change (default: ~/.ssh/config)", "file"),
		},
		Settings: []string{config.GroupAWS},
		Run:      func(ctx context.Context, args []string) error { return a.sshConfig(ctx, args, o) },
	}
}

// sshConfig runs `bastion ssh-config`.
func (a *app) sshConfig(ctx context.Context, args []string, o sshConfigOptions) error {
	switch {
	case o.write && o.remove:
		return fail.Usagef("leave out --write or --remove", "--write and --remove exclude each other")
	case o.file != "" && !o.write && !o.remove:
		return fail.Usagef("add --write or --remove", "--file needs --write or --remove: without them the block is printed")
	case o.remove && len(args) > 0:
		return fail.Usagef("usage: bastion ssh-config --remove [--file FILE]", "--remove takes no patterns")
	}
	path, err := sshConfigFile(o.file)
	if err != nil {
		return err
	}
	if o.remove {
		changed, err := editBlock(path, nil)
		if err != nil {
			return err
		}
		text := path + " has no block of bastion's"
		if changed {
			text = "removed bastion's block from " + path
		}
		return a.edited(path, changed, text)
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	b, err := a.sshBlockFor(ctx, s, args, o.connect)
	if err != nil {
		return err
	}
	text := b.marked()
	if !o.write && a.wantsJSON() {
		return a.document("config", text)
	}
	if !o.write {
		return a.printExact("the configuration", strings.TrimSuffix(text, "\n"), "add --write, which writes it to ssh's file")
	}
	changed, err := editBlock(path, []byte(text))
	if err != nil {
		return err
	}
	verb := "is up to date"
	if changed {
		verb = "was written"
	}
	return a.edited(path, changed, "bastion's block in "+path+" "+verb)
}

// edited prints what has become of ssh's file.
func (a *app) edited(path string, changed bool, text string) error {
	if a.wantsJSON() {
		return a.printJSON(map[string]any{"file": path, "changed": changed})
	}
	return console.Printf(a.out, "%s\n", text)
}

// sshConfigFile returns the absolute path of the file to change.
func sshConfigFile(given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fail.New(fail.Usage, "find ~/.ssh/config", err, "name the file with --file")
	}
	return filepath.Join(home, ".ssh", "config"), nil
}

// sshBlock is what differs from one block to another.
type sshBlock struct {
	command  string   // that wrote it
	proxy    string   // the words of ProxyCommand before its own arguments
	known    string   // the words of KnownHostsCommand before its own argument; "" where ssh has no such option
	identity string   // the agent socket, for IdentityAgent
	patterns []string // of hosts behind the bastion
	connect  bool     // EC2 Instance Connect
}

// sshBlockFor returns the block for this program, its flags and the ssh of this machine.
func (a *app) sshBlockFor(ctx context.Context, s config.Settings, patterns []string, connect bool) (sshBlock, error) {
	if len(patterns) == 0 {
		patterns = []string{"*.internal"}
	}
	if err := checkPatterns(patterns); err != nil {
		return sshBlock{}, err
	}
	program, err := a.program()
	if err != nil {
		return sshBlock{}, err
	}
	dir, err := dirs.Runtime(s.Local.RuntimeDir)
	if err != nil {
		return sshBlock{}, err
	}
	words := append([]string{program}, a.givenFlags()...)
	for _, w := range append(words, dir) {
		if strings.Contains(w, "${") || strings.ContainsFunc(w, func(r rune) bool {
			return r < ' ' || r == 0x7f || r == '"'
		}) {
			return sshBlock{}, fail.Usagef("use another path or value", "ssh_config cannot hold %q", w)
		}
	}
	b := sshBlock{
		proxy: proxyWords(words), known: argvWords(words), identity: strings.ReplaceAll(openssh.IdentityAgent(dir), "%", "%%"),
		patterns: patterns, connect: connect,
	}
	given := append([]string{"bastion", "ssh-config", "--write"}, a.givenFlags()...)
	if connect {
		given = append(given, "--instance-connect")
	}
	b.command = shellWords(append(given, patterns...))
	if runtime.GOOS == "windows" {
		b.known, b.connect = "", false // its ssh takes no socket for an agent
	}
	if major, minor, ok := sshVersion(ctx); ok && (major < 8 || major == 8 && minor < 5) {
		b.known = ""
	}
	return b, nil
}

// program returns a path of this program that stays when it is updated: as it was called, not where that leads.
func (a *app) program() (string, error) {
	path, err := exec.LookPath(a.self)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path, err = os.Executable()
	}
	if err != nil {
		return "", fail.New(fail.Other, "find this program's path", err, "call it by its absolute path")
	}
	return path, nil
}

// givenFlags returns the settings that were given as flags, as flags, for another run of this program.
func (a *app) givenFlags() []string {
	var out []string
	if a.line.ConfigFile != "" {
		path, err := filepath.Abs(a.line.ConfigFile)
		if err != nil {
			path = a.line.ConfigFile
		}
		out = append(out, "--config="+path)
	}
	for _, key := range slices.Sorted(maps.Keys(a.line.Settings)) {
		if setting := config.Lookup(key); setting.Group != config.GroupOutput {
			out = append(out, "--"+setting.Flag()+"="+a.line.Settings[key])
		}
	}
	return out
}

var bareWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./^-]+$`)

// proxyWords quotes a command line for ProxyCommand, which expands % and hands the rest to a shell.
func proxyWords(words []string) string { return strings.ReplaceAll(shellWords(words), "%", "%%") }

// shellWords quotes a command line for a POSIX shell; on Windows, whose ssh uses none, for a program there. They hold
// no double quotes.
func shellWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		switch {
		case bareWord.MatchString(w):
			out[i] = w
		case runtime.GOOS == "windows":
			out[i] = `"` + w + `"`
		default:
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}

// argvWords quotes a command line for KnownHostsCommand, which splits words itself and expands % in all but the first.
// They hold no quotes.
func argvWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		if out[i] = w; i > 0 {
			out[i] = strings.ReplaceAll(w, "%", "%%")
		}
		if !bareWord.MatchString(w) {
			out[i] = `"` + strings.ReplaceAll(out[i], `\`, `\\`) + `"`
		}
	}
	return strings.Join(out, " ")
}

// sshVersion returns the version of the ssh in PATH.
func sshVersion(ctx context.Context) (major, minor int, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ssh", "-V").CombinedOutput()
	m := regexp.MustCompile(`OpenSSH_(?:for_Windows_)?(\d{1,3})\.(\d{1,3})`).FindSubmatch(out)
	if err != nil || m == nil {
		return 0, 0, false
	}
	major, _ = strconv.Atoi(string(m[1])) // digits
	minor, _ = strconv.Atoi(string(m[2]))
	return major, minor, true
}

// body returns the stanzas.
func (b sshBlock) body() string {
	var out strings.Builder
	if b.known != "" {
		fmt.Fprintf(&out, `Host bastion *.bastion
    User bastion
    ProxyCommand %s proxy %%h %%p
    IdentityAgent "%s"
    IdentityFile none
    KnownHostsCommand %s known-hosts %%H
    UserKnownHostsFile none
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    PreferredAuthentications publickey
    ControlPath none
    ConnectTimeout 600

`, b.proxy, b.identity, b.known)
	}
	fmt.Fprintf(&out, `Host %s
    ProxyCommand %s proxy %%h %%p
    ConnectTimeout 600
    ServerAliveInterval 60
    ServerAliveCountMax 31

Host %s
`, strings.Join(b.patterns, " "), b.proxy, instancePatterns())
	if b.connect {
		fmt.Fprintf(&out, "    ProxyCommand %s proxy --instance-connect=%%r %%h %%p\n"+
			"    IdentityAgent \"%s\"\n    IdentityFile none\n",
			b.proxy, b.identity)
	} else {
		fmt.Fprintf(&out, "    ProxyCommand %s proxy %%h %%p\n", b.proxy)
	}
	out.WriteString("    ServerAliveInterval 60\n    ServerAliveCountMax 5\n")
	return out.String()
}

// marked returns the stanzas between their marks. The last one closes the scope of the one before it: options for all
// hosts may follow the block.
func (b sshBlock) marked() string {
	note := ""
	if b.known == "" {
		note = "# The bastion's own SSH server is left out: " +
			"that takes KnownHostsCommand and IdentityAgent (OpenSSH 8.5 or later).\n"
	}
	return block.Begin("") + "\n# Kept by: " + b.command + "\n" + note + "\n" + b.body() + "\nHost *\n" + block.End("") + "\n"
}

// editBlock puts stanzas into the file at path, in the place of the one that is there, else at the top: there no other
// Host or Match is before it. Without stanzas it takes that one out. It reports whether the file has changed.
func editBlock(path string, stanzas []byte) (bool, error) {
	op := "change " + path
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if len(stanzas) == 0 {
			return false, nil
		}
		if err := files.MkdirAll(dir, 0o700); err != nil {
			return false, cannotWrite(op, dir, err)
		}
	}
	var wrong error // of what is there
	changed, err := files.Update(path, maxSSHConfig, 0o600, func(old []byte) ([]byte, error) {
		text, err := files.Text(old)
		if err != nil {
			wrong = fail.New(fail.Usage, op, err, "")
			return nil, wrong
		}
		mark := old[:len(old)-len(text)] // it stays before everything
		b, err := block.Only(string(text))
		if err != nil {
			wrong = fail.New(fail.Usage, op, err, "correct the marks by hand: one "+block.Begin("")+" and one "+block.End(""))
			return nil, wrong
		}
		return slices.Concat(mark, text[:b.From], stanzas, text[b.To:]), nil
	})
	if err != nil && wrong == nil {
		err = cannotWrite(op, dir, err)
	}
	return changed, err
}

func cannotWrite(op, dir string, err error) error {
	switch {
	case files.IsForeign(err):
		return fail.New(fail.Usage, op, err, "run the command as that user, without sudo")
	case errors.Is(err, fs.ErrPermission):
		return fail.New(fail.Other, op, err, "check that you may write in "+dir)
	}
	return fail.New(fail.Usage, op, err, "check the path, or name another file with --file")
}
