package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
)

// Manual makes the manual pages of a program's table of commands.
type Manual struct {
	Program       *Program
	Date, Version string
	Files         []Term // files that the program reads and writes
	Environment   []Term // variables besides those of settings; a name may be several, separated by commas
	ExitStatus    []Term
}

// Overview returns the program's page.
func (m Manual) Overview() string {
	var p page
	name := m.Program.Root.Name
	p.head(name, m)
	p.section("NAME").text(name + " - " + m.Program.Root.Summary)
	p.section("SYNOPSIS").synopsis(name, strings.TrimPrefix(m.Program.usageOf(m.Program.Root, name), name))
	p.section("DESCRIPTION").description(m.Program.Root.About)
	p.section("COMMANDS")
	for _, group := range m.Program.Groups {
		p.sub(group)
		for _, cmd := range m.Program.Root.Listed() {
			if cmd.Group == group {
				p.item(`\fB`+escape(name+"-"+cmd.Name)+`\fR(1)`, cmd.Summary)
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
	p.section("FILES").list(m.Files)
	p.section("ENVIRONMENT").list(m.Environment)
	p.section("EXIT STATUS").list(m.ExitStatus)
	p.examples(m.Program.Root.Examples)
	var pages []string
	for _, cmd := range m.Program.Root.Listed() {
		pages = append(pages, reference(name+"-"+cmd.Name))
	}
	slices.Sort(pages)
	p.section("SEE ALSO").line(strings.Join(append(pages, reference("ssh_config", "5")), ",\n"))
	return p.String()
}

// Command returns the page of a command and its subcommands.
func (m Manual) Command(cmd *Command) string {
	var p page
	name := m.Program.Root.Name
	path := name + " " + cmd.Name
	pageName := name + "-" + cmd.Name
	p.head(pageName, m)
	p.section("NAME").text(pageName + " - " + cmd.Summary)
	p.section("SYNOPSIS").synopsis(path, strings.TrimPrefix(m.Program.usageOf(cmd, path), path))
	p.section("DESCRIPTION").description(cmd.About)
	if len(cmd.Verbs) > 0 {
		p.section("COMMANDS")
	}
	for _, v := range cmd.Listed() {
		p.sub(path + " " + v.Name)
		p.text(strings.ToUpper(v.Summary[:1]) + v.Summary[1:] + ".")
		p.description(v.About)
		for _, o := range v.Flags {
			p.option(o)
		}
	}
	p.section("OPTIONS")
	for _, o := range cmd.Flags {
		p.option(o)
	}
	groups := slices.Clone(cmd.Settings)
	for _, v := range cmd.Listed() {
		groups = append(groups, v.Settings...)
	}
	for _, group := range config.Groups() {
		if slices.Contains(groups, group) {
			p.settings(group, func(*config.Setting) {})
		}
	}
	if len(cmd.Flags)+len(groups) > 0 {
		p.line(".PP")
	}
	p.text("Every setting is an option of every command; " + name + "(1) lists them.")
	p.section("EXIT STATUS").list(m.ExitStatus)
	p.examples(cmd.Examples)
	p.section("SEE ALSO").line(reference(name) + ", " + reference("ssh_config", "5"))
	return p.String()
}

// page is a manual page in roff's man macros.
type page struct{ strings.Builder }

func (p *page) line(s string) { p.WriteString(s + "\n") }

func (p *page) head(name string, m Manual) {
	program := m.Program.Root.Name
	p.line(fmt.Sprintf(".TH %s 1 %q %q %q", strings.ToUpper(escape(name)), m.Date, program+" "+m.Version, program+" manual"))
}

func (p *page) section(name string) *page {
	p.line(".SH " + name)
	return p
}

func (p *page) sub(name string) { p.line(".SS " + strconv.Quote(name)) }

// textWidth is the most columns of a line of source text. Some checkers of manual pages warn of longer lines.
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

// item writes a term, which may contain markup, and its meaning.
func (p *page) item(term, meaning string) {
	p.line(".TP")
	p.line(term)
	p.text(meaning)
}

// synopsis writes a usage line: the command in bold, then rest.
func (p *page) synopsis(path, rest string) {
	p.line(strings.TrimSpace(bold(path) + " " + escape(strings.TrimSpace(rest))))
}

// settings lists a group's settings as options. It calls after behind each, for further text.
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
func (p *page) option(o Option) {
	names := slices.Clone(o.Names())
	slices.Reverse(names)
	for i, n := range names {
		names[i] = bold(dashes(n))
	}
	head := strings.Join(names, ", ")
	if o.Value() != "" {
		head += ` \fI` + escape(o.Value()) + `\fR`
	}
	p.item(head, o.Meaning()+".")
}

// description writes the parts of a description.
func (p *page) description(blocks []Passage) {
	for i, b := range blocks {
		for _, t := range b.terms {
			p.item(bold(t.Name), t.Meaning)
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

// examples writes command lines as the user types them.
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

// list writes terms and their meanings. A term may be several, separated by commas.
func (p *page) list(terms []Term) {
	for _, t := range terms {
		names := strings.Split(t.Name, ", ")
		for i, n := range names {
			if n != "..." {
				names[i] = bold(n)
			}
		}
		p.item(strings.Join(names, ", "), t.Meaning)
	}
}

func reference(name string, section ...string) string {
	return bold(name) + "(" + strings.Join(append(section, "1")[:1], "") + ")"
}

func bold(s string) string { return `\fB` + escape(s) + `\fR` }

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", "\\(ga", "^", `\(ha`, "~", `\(ti`, `"`,
	`\(dq`)

// escape makes roff take text literally, even at the beginning of a line.
func escape(s string) string {
	lines := strings.Split(roffEscapes.Replace(s), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
