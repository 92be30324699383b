package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

func (a *app) manCommand() *cli.Command {
	var dir string
	return &cli.Command{
		Name:      "man",
		Usage:     "print the manual page of a command, or write all of them",
		Category:  "Other",
		ArgsUsage: "[COMMAND]",
		Description: text(`
			Prints a manual page in the language of man: bastion(1), or that of a command. With --dir all pages are written into the
			directory, which is made if it is not there: bastion.1, and bastion-COMMAND.1 for every command. The date in them is
			that of SOURCE_DATE_EPOCH, or today.`,
			"bastion man forward | man -l -",
			"bastion man --dir ~/.local/share/man/man1"),
		Flags: a.settingFlags(nil, &textFlag{
			names: []string{"dir"}, value: "DIR", help: "write all pages into DIR", set: func(v string) { dir = v },
		}),
		Action: func(c *cli.Context) error { return a.man(c, dir) },
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
	m := manual{app: c.App, date: date, version: readVersion().Version}
	name := c.Args().First()
	switch {
	case dir == "" && name == "":
		return a.document("man", m.program())
	case dir == "":
		cmd := c.App.Command(name)
		if cmd == nil {
			return unknownCommand(c.App, name)
		}
		return a.document("man", m.command(cmd))
	case name != "":
		return usage("leave out "+name+", or --dir", "--dir is for all pages")
	}
	pages := map[string]string{"bastion.1": m.program()}
	for _, cmd := range c.App.Commands {
		pages["bastion-"+cmd.Name+".1"] = m.command(cmd)
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
	app           *cli.App
	date, version string
}

// program is bastion(1).
func (m manual) program() string {
	var p page
	p.head("bastion", m)
	p.section("NAME").text("bastion - " + m.app.Usage)
	p.section("SYNOPSIS").synopsis(m.app.UsageText)
	p.section("DESCRIPTION").description(m.app.Description)
	p.section("COMMANDS")
	for _, category := range m.app.VisibleCategories() {
		p.sub(category.Name())
		for _, cmd := range category.VisibleCommands() {
			p.item(`\fB`+escape("bastion-"+cmd.Name)+`\fR(1)`, cmd.Usage)
		}
	}
	p.section("SETTINGS").text("Each setting is an option of every command, a variable " +
		"and a key of the configuration file. " +
		"The first that is given wins, in this order.")
	for _, group := range config.Groups() {
		p.sub(group)
		for _, s := range config.All() {
			if s.Group != group {
				continue
			}
			help := s.Help + "."
			if s.Default != "" {
				help += " Default: " + s.Default + "."
			}
			p.item(option(&settingFlag{setting: s}), help)
			p.line(".br\nVariable " + bold(s.Env()) + ", key " + bold(s.Key) + ".")
		}
	}
	p.section("FILES")
	p.item(bold("bastion.yaml"),
		"The configuration, in the working directory or the nearest directory above it that has one.")
	p.item(bold("~/.config/bastion/config.yaml"), "The configuration where there is none of those.")
	p.item(bold("~/.local/state/bastion/trusted.json"), "The bastion.yaml files that bastion trust has recorded.")
	p.section("ENVIRONMENT")
	p.item(bold("BASTION_CONFIG"), "The configuration file.")
	p.item(bold("AWS_PROFILE")+", "+bold("AWS_REGION")+", ...", "As for the AWS CLI.")
	p.exitStatus()
	p.examples(m.app.Description)
	p.section("SEE ALSO")
	var names []string
	for _, cmd := range m.app.Commands {
		names = append(names, cmd.Name)
	}
	slices.Sort(names)
	p.seeAlso(names)
	return p.String()
}

// command is the page of a command.
func (m manual) command(cmd *cli.Command) string {
	var p page
	p.head("bastion-"+cmd.Name, m)
	p.section("NAME").text("bastion-" + cmd.Name + " - " + cmd.Usage)
	p.section("SYNOPSIS").synopsis(strings.TrimSpace("bastion " + cmd.Name + " [options] " + cmd.ArgsUsage))
	p.section("DESCRIPTION").description(cmd.Description)
	p.section("OPTIONS")
	for _, category := range cmd.VisibleFlagCategories() {
		p.sub(category.Name())
		for _, f := range category.Flags() {
			p.flag(f)
		}
	}
	p.line(".PP")
	p.text("Every setting is an option of every command; bastion(1) lists them.")
	p.exitStatus()
	p.examples(cmd.Description)
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

// synopsis writes a command line.
func (p *page) synopsis(s string) {
	words := strings.Fields(s)
	bolds := 1 // the program and its command
	if len(words) > 1 && strings.ToLower(words[1]) == words[1] && !strings.HasPrefix(words[1], "[") {
		bolds = 2
	}
	p.line(strings.TrimSpace(bold(strings.Join(words[:bolds], " ")) + " " + escape(strings.Join(words[bolds:], " "))))
}

// flag writes an option of a command.
func (p *page) flag(f cli.Flag) {
	switch f := f.(type) {
	case *settingFlag:
		help := f.setting.Help + "."
		if f.setting.Default != "" && !f.setting.IsSwitch() {
			help += " Default: " + f.setting.Default + "."
		}
		p.item(option(f), help)
	case *textFlag:
		p.item(option(f), f.help+".")
	default:
		names, help, _ := strings.Cut(f.String(), "\t")
		p.item(bold(names), help+".")
	}
}

// option is the term of an option: -o, --output text|json.
func option(f cli.Flag) string {
	value := ""
	switch f := f.(type) {
	case *settingFlag:
		value = f.setting.Value
	case *textFlag:
		value = f.value
	}
	var names []string
	for _, n := range f.Names() {
		names = append([]string{bold(dashes(n))}, names...)
	}
	out := strings.Join(names, ", ")
	if value != "" {
		out += ` \fI` + escape(value) + `\fR`
	}
	return out
}

// termLine is a line of a description that begins with a term: words, two or more spaces, and what they mean.
var termLine = regexp.MustCompile(`^(\S+(?: \S+)*) {2,}(\S.*)$`)

// description writes a command's description without its examples. Paragraphs are filled; lists of terms and indented
// lines are kept as such, and a line that is indented deeper goes on with the one before it.
func (p *page) description(s string) {
	body, _, _ := strings.Cut(s, "\n\nExamples:")
	for i, paragraph := range strings.Split(body, "\n\n") {
		lines := strings.Split(strings.TrimRight(paragraph, "\n"), "\n")
		first := lines[0]
		switch {
		case termLine.MatchString(first):
			for _, l := range lines {
				if m := termLine.FindStringSubmatch(l); m != nil {
					p.item(bold(m[1]), m[2])
				} else {
					p.text(strings.TrimSpace(l))
				}
			}
		case strings.HasPrefix(first, " "):
			indent := len(first) - len(strings.TrimLeft(first, " "))
			for _, l := range lines {
				if len(l)-len(strings.TrimLeft(l, " ")) <= indent {
					p.line(`.IP \(bu 2`)
				}
				p.text(strings.TrimSpace(l))
			}
		default:
			if i > 0 {
				p.line(".PP")
			}
			p.text(strings.Join(lines, "\n"))
		}
	}
}

// examples writes the examples of a description.
func (p *page) examples(description string) {
	_, examples, ok := strings.Cut(description, "\n\nExamples:")
	if !ok {
		return
	}
	p.section("EXAMPLES").line(".nf")
	for line := range strings.Lines(strings.Trim(examples, "\n")) {
		p.line(escape(strings.TrimSpace(line)))
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
