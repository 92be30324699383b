package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

func (a *app) manCommand() *command {
	var dir string
	return &command{
		name:    "man",
		summary: "print a command's manual page, or write all pages",
		group:   groupOther,
		args:    "[COMMAND]",
		about: []passage{para(`Prints a manual page in roff: bastion(1), or the page of a command. With --dir it writes all pages into the
			directory, which it makes if necessary: bastion.1, and bastion-COMMAND.1 for each command. Their date is SOURCE_DATE_EPOCH, or
			today.`)},
		examples: []string{"bastion man forward | man -l -", "bastion man --dir ~/.local/share/man/man1"},
		flags: []option{&textFlag{
			names: []string{"dir"}, form: "DIR", help: "write all pages into DIR", set: func(v string) { dir = v },
		}},
		run: func(c *cli.Context) error { return a.man(c, dir) },
		complete: func(args []string) []candidate {
			if len(args) > 0 {
				return nil
			}
			return commandCandidates(a.root())
		},
	}
}

// man runs `bastion man`.
func (a *app) man(c *cli.Context, dir string) error {
	if err := argCount(c, 0, 1); err != nil {
		return err
	}
	date, err := manDate()
	if err != nil {
		return err
	}
	m := manual{root: a.root(), date: date, version: readVersion().Version}
	name := c.Args().First()
	switch {
	case dir == "" && name == "":
		return a.document("man", m.program())
	case dir == "":
		cmd, _, err := m.root.find([]string{name})
		if err != nil {
			return err
		}
		return a.document("man", m.command(cmd))
	case name != "":
		return usage("leave out "+name+", or --dir", "--dir is for all pages")
	}
	pages := map[string]string{"bastion.1": m.program()}
	for _, cmd := range m.root.verbs {
		pages["bastion-"+cmd.name+".1"] = m.command(cmd)
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
			return "", usage("set it to seconds since 1970, or not at all", "SOURCE_DATE_EPOCH is %q", epoch)
		}
		at = time.Unix(n, 0)
	}
	return at.UTC().Format(time.DateOnly), nil
}

// manual makes manual pages of the table of commands.
type manual struct {
	root          *command
	date, version string
}

// program is bastion(1).
func (m manual) program() string {
	var p page
	p.head(programName, m)
	p.section("NAME").text(programName + " - " + m.root.summary)
	p.section("SYNOPSIS").synopsis(programName, strings.TrimPrefix(usageOf(m.root, programName), programName))
	p.section("DESCRIPTION").description(m.root.about)
	p.section("COMMANDS")
	for _, group := range commandGroups {
		p.sub(group)
		for _, cmd := range m.root.listed() {
			if cmd.group == group {
				p.item(`\fB`+escape("bastion-"+cmd.name)+`\fR(1)`, cmd.summary)
			}
		}
	}
	p.section("SETTINGS").text("Each setting is an option of every command, a variable " +
		"and a key of the configuration file. " +
		"The first that is given wins, in this order.")
	for _, group := range config.Groups() {
		p.settings(group, func(s *config.Setting) {
			p.line(".br\nVariable " + bold(s.Env()) + ", key " + bold(s.Key) + ".")
		})
	}
	p.section("FILES")
	p.item(bold("bastion.yaml"),
		"The configuration, in the working directory or the nearest directory above it that has one.")
	p.item(bold("~/.config/bastion/config.yaml"), "The configuration, if none of those directories has one.")
	p.item(bold("~/.local/state/bastion/trusted.json"), "The bastion.yaml files that bastion trust has recorded.")
	p.section("ENVIRONMENT")
	p.item(bold("BASTION_CONFIG"), "The configuration file.")
	p.item(bold("AWS_PROFILE")+", "+bold("AWS_REGION")+", ...", "As for the AWS CLI.")
	p.exitStatus()
	p.examples(m.root.examples)
	p.section("SEE ALSO")
	var names []string
	for _, cmd := range m.root.listed() {
		names = append(names, cmd.name)
	}
	slices.Sort(names)
	p.seeAlso(names)
	return p.String()
}

// command is the page of a command, with its subcommands.
func (m manual) command(cmd *command) string {
	var p page
	path := programName + " " + cmd.name
	p.head("bastion-"+cmd.name, m)
	p.section("NAME").text("bastion-" + cmd.name + " - " + cmd.summary)
	p.section("SYNOPSIS").synopsis(path, strings.TrimPrefix(usageOf(cmd, path), path))
	p.section("DESCRIPTION").description(cmd.about)
	if len(cmd.verbs) > 0 {
		p.section("COMMANDS")
	}
	for _, v := range cmd.listed() {
		p.sub(path + " " + v.name)
		p.text(strings.ToUpper(v.summary[:1]) + v.summary[1:] + ".")
		p.description(v.about)
		for _, o := range v.flags {
			p.option(o)
		}
	}
	p.section("OPTIONS")
	for _, o := range cmd.flags {
		p.option(o)
	}
	groups := slices.Clone(cmd.settings)
	for _, v := range cmd.listed() {
		groups = append(groups, v.settings...)
	}
	for _, group := range config.Groups() {
		if slices.Contains(groups, group) {
			p.settings(group, func(*config.Setting) {})
		}
	}
	if len(cmd.flags)+len(groups) > 0 {
		p.line(".PP")
	}
	p.text("Every setting is an option of every command; bastion(1) lists them.")
	p.exitStatus()
	p.examples(cmd.examples)
	p.section("SEE ALSO").line(reference("bastion") + ", " + reference("ssh_config", "5"))
	return p.String()
}

// page is a manual page in the man macros of roff.
type page struct{ strings.Builder }

func (p *page) line(s string) { p.WriteString(s + "\n") }

func (p *page) head(name string, m manual) {
	p.line(fmt.Sprintf(".TH %s 1 %q %q %q", strings.ToUpper(escape(name)), m.date, "bastion "+m.version, "bastion manual"))
}

func (p *page) section(name string) *page {
	p.line(".SH " + name)
	return p
}

func (p *page) sub(name string) { p.line(".SS " + strconv.Quote(name)) }

// textWidth is where lines of the source end. Some who read it warn of longer ones.
const textWidth = 78

// text writes running text.
func (p *page) text(s string) {
	var line string
	for _, w := range strings.Fields(s) {
		if line != "" && len(escape(line))+1+len(escape(w)) > textWidth {
			p.line(escape(line))
			line = ""
		}
		line = strings.TrimSpace(line + " " + w)
	}
	p.line(escape(line))
}

// item writes a term, which is markup, and what it means.
func (p *page) item(term, meaning string) {
	p.line(".TP")
	p.line(term)
	p.text(meaning)
}

// synopsis writes a command line: the command, and what follows it.
func (p *page) synopsis(path, rest string) {
	p.line(strings.TrimSpace(bold(path) + " " + escape(strings.TrimSpace(rest))))
}

// settings lists the settings of a group as options; after each, more may follow.
func (p *page) settings(group string, after func(*config.Setting)) {
	p.sub(group)
	for _, s := range config.All() {
		if s.Group == group {
			p.option(&settingFlag{setting: s})
			after(s)
		}
	}
}

// option lists an option: -o, --output text|json.
func (p *page) option(o option) {
	names := slices.Clone(o.Names())
	slices.Reverse(names)
	for i, n := range names {
		names[i] = bold(dashes(n))
	}
	head := strings.Join(names, ", ")
	if o.value() != "" {
		head += ` \fI` + escape(o.value()) + `\fR`
	}
	p.item(head, o.meaning()+".")
}

// description writes the parts of a description.
func (p *page) description(blocks []passage) {
	for i, b := range blocks {
		for _, t := range b.terms {
			p.item(bold(t.name), t.meaning)
		}
		for _, item := range b.items {
			p.line(`.IP \(bu 2`)
			p.text(item)
		}
		if b.text != "" {
			if i > 0 {
				p.line(".PP")
			}
			p.text(b.text)
		}
	}
}

// examples writes examples as they are typed.
func (p *page) examples(list []string) {
	if len(list) == 0 {
		return
	}
	p.section("EXAMPLES").line(".nf")
	for _, e := range list {
		p.line(escape(e))
	}
	p.line(".fi")
}

// exitMeanings explain the exit codes, beside those of signals.
var exitMeanings = map[fail.Kind]string{
	fail.Other: "a failure of no special kind", fail.Usage: "wrong options, arguments or configuration",
	fail.NoTarget: "no such target, or several", fail.Credentials: "no AWS credentials, or expired or invalid ones",
	fail.Denied: "refused by IAM or by the bastion's policy", fail.Start: "the bastion could not be started or reached",
	fail.PortInUse: "a local port is taken", fail.Lost: "the link was lost and could not be restored",
	fail.Timeout: "the time was over",
}

func (p *page) exitStatus() {
	p.section("EXIT STATUS")
	p.item(bold("0"), "Success.")
	for kind := fail.Other; kind <= fail.Timeout; kind++ {
		meaning := exitMeanings[kind]
		p.item(bold(strconv.Itoa(exitCodes[kind])), strings.ToUpper(meaning[:1])+meaning[1:]+".")
	}
	p.item(bold("128+N"), "Ended by signal N.")
}

func (p *page) seeAlso(commands []string) {
	refs := make([]string, 0, len(commands))
	for _, name := range commands {
		refs = append(refs, reference("bastion-"+name))
	}
	p.line(strings.Join(append(refs, reference("ssh_config", "5")), ",\n"))
}

func reference(name string, section ...string) string {
	return bold(name) + "(" + strings.Join(append(section, "1")[:1], "") + ")"
}

func bold(s string) string { return `\fB` + escape(s) + `\fR` }

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", "\\(ga", "^", `\(ha`, "~", `\(ti`, `"`,
	`\(dq`)

// escape makes text stand for itself in roff, also at the beginning of a line.
func escape(s string) string {
	lines := strings.Split(roffEscapes.Replace(s), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
