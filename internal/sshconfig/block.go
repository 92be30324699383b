// Package sshconfig writes bastion's block of ~/.ssh/config, so that ssh reaches hosts through bastion as its ProxyCommand. The
// block has stanzas for the bastion's own SSH server, for hosts behind it by pattern, and for EC2 instances by id. The package
// checks the patterns, quotes the command lines by OpenSSH's rules, and leaves the rest of the file unchanged.
package sshconfig

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/block"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/openssh"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// Block has the variable parts of a block.
type Block struct {
	command  string   // the command line that wrote it
	proxy    string   // ProxyCommand, before its own arguments
	known    string   // KnownHostsCommand, before its own argument; "" if ssh lacks the option
	identity string   // the agent socket, for IdentityAgent
	patterns []string // for hosts behind the bastion
	connect  bool     // EC2 Instance Connect
	inside   []inside // hosts behind bastions of environments

	proxyOptions string // of each proxy, with a space before them
}

// inside are the hosts of an environment.
type inside struct {
	proxy    string // ProxyCommand, before its own arguments
	patterns []string
}

// Options are the contents of a block.
type Options struct {
	Program  string   // path of the program
	Given    []string // the settings given as options, again as options
	Dir      string   // the runtime directory, where the agent's socket is
	Patterns []string // for hosts behind the bastion, also as ENV/PATTERN; none: *.internal
	Connect  bool     // EC2 Instance Connect
	Yes      bool     // environments do not ask

	Environments []string // the names that ENV may be
}

// New returns the block for a program and this machine's ssh.
func New(ctx context.Context, o Options) (Block, error) {
	if len(o.Patterns) == 0 {
		o.Patterns = []string{"*.internal"}
	}
	patterns, of, err := o.split()
	if err != nil {
		return Block{}, err
	}
	words := append([]string{o.Program}, o.Given...)
	for _, w := range append(words, o.Dir) {
		if strings.Contains(w, "${") || strings.ContainsFunc(w, func(r rune) bool {
			return r < ' ' || r == 0x7f || r == '"'
		}) {
			return Block{}, fail.Usagef("use another path or value", "ssh_config cannot hold %q", w)
		}
	}
	b := Block{
		proxy: proxyWords(words), known: argvWords(words), identity: strings.ReplaceAll(openssh.IdentityAgent(o.Dir), "%", "%%"),
		patterns: patterns, connect: o.Connect,
	}
	if o.Yes { // an option of proxy alone
		b.proxyOptions = " " + yesOption
	}
	for _, name := range o.Environments {
		if len(of[name]) > 0 {
			b.inside = append(b.inside, inside{b.proxy + " --environment=" + name, of[name]})
		}
	}
	command := append([]string{"bastion", "ssh-config", "--write"}, o.Given...)
	if o.Yes {
		command = append(command, yesOption)
	}
	if o.Connect {
		command = append(command, "--instance-connect")
	}
	b.command = shellWords(append(command, o.Patterns...))
	if runtime.GOOS == "windows" {
		b.known, b.connect = "", false // its ssh takes no socket for an agent
	}
	if major, minor, ok := sshVersion(ctx); ok && (major < 8 || major == 8 && minor < 5) {
		b.known = ""
	}
	return b, nil
}

const yesOption = "--yes"

// split returns the patterns without an environment, and those of each environment. All are checked.
func (o Options) split() (patterns []string, of map[string][]string, err error) {
	of = make(map[string][]string)
	for _, p := range o.Patterns {
		environment, rest, ok := environmentOf(p)
		if err := checkEnvironment(p, o.Environments); err != nil {
			return nil, nil, err
		}
		if !ok || !slices.Contains(o.Environments, environment) {
			patterns = append(patterns, p)
			continue
		}
		of[environment] = append(of[environment], rest)
	}
	for _, name := range o.Environments {
		if err := checkPatterns(of[name]); err != nil {
			return nil, nil, err
		}
	}
	return patterns, of, checkPatterns(patterns)
}

// environmentOf splits ENV/PATTERN. The rest keeps the pattern's "!".
func environmentOf(pattern string) (name, rest string, ok bool) {
	bare := strings.TrimPrefix(pattern, "!")
	name, rest, ok = strings.Cut(bare, "/")
	return name, pattern[:len(pattern)-len(bare)] + rest, ok
}

var environmentName = pattern.Lazy(`^[A-Za-z0-9_-]+$`)

// checkEnvironment refuses a pattern of an environment that the configuration does not have. A network (10.0.0.0/8) is of none.
func checkEnvironment(pattern string, known []string) error {
	name, _, ok := environmentOf(pattern)
	if !ok || !environmentName().MatchString(name) || len(known) == 0 || slices.Contains(known, name) {
		return nil
	}
	return fail.Usagef("bastion use lists the environments", "the pattern %s: unknown environment %q: there are %s", pattern, name,
		strings.Join(known, ", "))
}

var bareWord = pattern.Lazy(`^[A-Za-z0-9_@%+=:,./^-]+$`)

// proxyWords quotes a command line for ProxyCommand, which expands % and hands the rest to a shell.
func proxyWords(words []string) string { return strings.ReplaceAll(shellWords(words), "%", "%%") }

// shellWords quotes a command line for a POSIX shell. On Windows, whose ssh uses no shell, it quotes for a program there. The words
// hold no double quotes.
func shellWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		switch {
		case bareWord().MatchString(w):
			out[i] = w
		case runtime.GOOS == "windows":
			out[i] = `"` + w + `"`
		default:
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}

// argvWords quotes a command line for KnownHostsCommand, which splits words itself and expands % in all but the first. The words
// hold no quotes.
func argvWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		if out[i] = w; i > 0 {
			out[i] = strings.ReplaceAll(w, "%", "%%")
		}
		if !bareWord().MatchString(w) {
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
	major, _ = strconv.Atoi(string(m[1])) // both are digits
	minor, _ = strconv.Atoi(string(m[2]))
	return major, minor, true
}

// body returns the stanzas.
func (b Block) body() string {
	var out strings.Builder
	if b.known != "" {
		fmt.Fprintf(&out, `Host bastion *.bastion
    User bastion
    ProxyCommand %s proxy%s %%h %%p
    IdentityAgent "%s"
    IdentityFile none
    KnownHostsCommand %s known-hosts %%H
    UserKnownHostsFile none
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    PreferredAuthentications publickey
    ControlPath none
    ConnectTimeout 600

`, b.proxy, b.proxyOptions, b.identity, b.known)
	}
	hosts := b.inside
	if len(b.patterns) > 0 {
		hosts = append(slices.Clone(hosts), inside{b.proxy, b.patterns})
	}
	for _, h := range hosts { // ssh takes the first that matches
		fmt.Fprintf(&out, `Host %s
    ProxyCommand %s proxy%s %%h %%p
    ConnectTimeout 600
    ServerAliveInterval 60
    ServerAliveCountMax 31

`, strings.Join(h.patterns, " "), h.proxy, b.proxyOptions)
	}
	fmt.Fprintf(&out, "Host %s\n", instancePatterns())
	if b.connect {
		fmt.Fprintf(&out, "    ProxyCommand %s proxy%s --instance-connect=%%r %%h %%p\n"+
			"    IdentityAgent \"%s\"\n    IdentityFile none\n",
			b.proxy, b.proxyOptions, b.identity)
	} else {
		fmt.Fprintf(&out, "    ProxyCommand %s proxy%s %%h %%p\n", b.proxy, b.proxyOptions)
	}
	out.WriteString("    ServerAliveInterval 60\n    ServerAliveCountMax 5\n")
	return out.String()
}

// kept begins the line of a block that has the command that wrote it.
const kept = "# Kept by: "

// String returns the stanzas between their marks. The last stanza is Host *, so that options for all hosts may follow the block.
func (b Block) String() string {
	note := ""
	if b.known == "" {
		note = "# The bastion's own SSH server is left out: " +
			"that takes KnownHostsCommand and IdentityAgent (OpenSSH 8.5 or later).\n"
	}
	return block.Begin("") + "\n" + kept + b.command + "\n" + note + "\n" + b.body() + "\nHost *\n" + block.End("") + "\n"
}
