package setup

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/price"
	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/words"
)

// Shown is a plan as it is shown.
type Shown struct {
	Account   string          `json:"account"`
	Region    string          `json:"region"`
	Stack     string          `json:"stack"`
	Exists    bool            `json:"exists"`
	Choices   []survey.Reason `json:"choices"`
	Inputs    map[string]any  `json:"inputs"`
	Resources []deploy.Change `json:"resources"`
	Yours     []string        `json:"changes_of_yours"` // what the stack changes of what is not its own
	Notes     []string        `json:"notes"`
	Images    []string        `json:"images"`
	Cost      price.Estimate  `json:"cost"`
}

// Show returns the plan as it is shown. Without a preview of a new stack, its resources are those of the model.
func (p *Plan) Show() Shown {
	in := p.Stack.Inputs
	s := Shown{
		Account: p.Account, Region: p.Region, Stack: in.Name, Exists: p.Exists, Choices: p.Choice.Reasons, Inputs: in.Shown(),
		Notes: p.Choice.Notes,
	}
	s.Cost = price.Of(p.Stack, p.price)
	s.Choices = append(slices.Clip(s.Choices), transcripts(in))
	for _, f := range p.Findings {
		if slices.ContainsFunc(p.Choice.Notes, func(note string) bool { return strings.HasPrefix(note, "AWS did not show "+f.What+" (") }) {
			continue // the choice says what follows of it
		}
		s.Notes = append(s.Notes, fmt.Sprintf("AWS did not show %s: %v", f.What, f.Err)+words.Parenthesis(fail.NextOf(f.Err)))
	}
	for _, a := range p.Adopted {
		s.Notes = append(s.Notes, fmt.Sprintf("an earlier stack of the name has left %s, which this one takes over", a.PhysicalID))
	}
	s.Notes = append(s.Notes, shared(in)...)
	s.Yours = p.yours()
	for _, i := range p.Images {
		if i.Class != "" {
			i.Tag += " (class " + i.Class + ")"
		}
		s.Images = append(s.Images, i.Tag)
	}
	s.Resources = slices.Clone(p.Changes)
	if p.Changes == nil && !p.Exists {
		for _, r := range p.Stack.Resources {
			s.Resources = append(s.Resources, deploy.Change{Action: "Add", Resource: r.ID, Type: r.Type})
		}
	}
	return s
}

// transcripts says whether ECS Exec leaves transcripts, and what that means.
func transcripts(in account.Inputs) survey.Reason {
	if in.ExecLogs {
		return survey.Reason{
			What: "ECS Exec", Value: "encrypted, with transcripts in CloudWatch Logs and S3",
			Why: "you chose it; the agent in the task writes them, by permissions of the task role, and needs script and cat in the image",
		}
	}
	return survey.Reason{
		What: "ECS Exec", Value: "encrypted, without transcripts",
		Why: "whoever enters a task could write them; CloudTrail has each command, and an alarm tells of any but the grant's (--exec-logs)",
	}
}

// shared says of each shared class what its people must know of each other.
func shared(in account.Inputs) (notes []string) {
	for _, c := range in.SharedClasses() {
		of := "the bastions are shared"
		if c.Name != "" {
			of = "the bastions of class " + c.Name + " are shared"
		}
		notes = append(notes, fmt.Sprintf("%s: %s always run, and whoever may use one is root in it by ECS Exec: they can end it for all, "+
			"make grants in others' names and read what their connections carry without TLS (docs/security.md)", of, words.Count(c.Shared, "task")))
	}
	return notes
}

// admission is that the people of a role may use the bastions of a class.
type admission struct{ role, class string }

// admissions are those of classes.
func admissions(classes []account.Class) (all []admission) {
	for _, c := range classes {
		for _, role := range c.Roles {
			all = append(all, admission{role, c.Name})
		}
	}
	return all
}

// policy names the policy that the stack attaches to the role.
func (a admission) policy() string {
	if a.class == "" {
		return "the policy of the bastions' people"
	}
	return "the policy of the people of class " + a.class
}

// yours are the rules that the plan adds to security groups of others and the policies that it attaches to roles of others, or takes away
// from them.
func (p *Plan) yours() (lines []string) {
	for _, i := range p.Stack.Inputs.Ingress {
		if !admits(p.ingress, i) {
			lines = append(lines, fmt.Sprintf("security group %s: lets the tasks in at port %d (%s)", i.Group, i.Port, i.For))
		}
	}
	for _, i := range p.ingress {
		if !admits(p.Stack.Inputs.Ingress, i) {
			lines = append(lines, fmt.Sprintf("security group %s: no longer lets the tasks in at port %d (%s)", i.Group, i.Port, i.For))
		}
	}
	now := admissions(p.Stack.Inputs.Classes)
	for _, a := range now {
		if !slices.Contains(p.people, a) {
			lines = append(lines, "role "+a.role+": gets "+a.policy())
		}
	}
	for _, a := range p.people {
		if !slices.Contains(now, a) {
			lines = append(lines, "role "+a.role+": loses "+a.policy())
		}
	}
	return lines
}

// WriteText writes the plan for a reader.
func (s Shown) WriteText(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "The stack %s in account %s, region %s\n", s.Stack, s.Account, s.Region)
	for _, c := range s.Choices {
		fmt.Fprintf(&b, "  %s: %s\n      %s\n", printable.Line(c.What), printable.Line(c.Value), printable.Line(c.Why))
	}
	if len(s.Resources) == 0 {
		fmt.Fprintln(&b, "\nNothing changes.")
	} else {
		fmt.Fprintf(&b, "\n%s:\n", words.Count(len(s.Resources), "resource"))
		WriteChanges(&b, s.Resources)
	}
	section := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "\n%s:\n", title)
		}
		for _, line := range lines {
			fmt.Fprintf(&b, "  %s\n", printable.Line(line))
		}
	}
	section("Of yours it changes", s.Yours)
	section("Images to push", s.Images)
	section(fmt.Sprintf("Cost: about $%s a month while nobody uses it, and $%s for each hour of a bastion",
		price.Total(s.Cost.Month).Round(2), price.Total(s.Cost.Hour).Round(4)), items(s.Cost))
	section("Note", s.Notes)
	_, err := io.WriteString(out, b.String())
	return err
}

// WriteChanges writes a line for each change, with the properties that cause it and whether it replaces the resource.
func WriteChanges(out io.Writer, changes []deploy.Change) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, c := range changes {
		how := strings.Join(c.Properties, ", ")
		switch c.Replacement {
		case "True":
			how = strings.TrimPrefix(how+"; replaced", "; ")
		case "Conditional":
			how = strings.TrimPrefix(how+"; perhaps replaced", "; ")
		}
		fmt.Fprintln(w, printable.Row("  "+strings.ToLower(c.Action), c.Resource, c.Type, words.Dash(how)))
	}
	_ = w.Flush()
}

// items are the parts of a cost, a line each, and what it leaves out.
func items(e price.Estimate) (lines []string) {
	for _, part := range []struct {
		unit   string
		places int
		items  []price.Item
	}{{"a month", 2, e.Month}, {"an hour", 4, e.Hour}} {
		for _, i := range part.items {
			lines = append(lines, fmt.Sprintf("%s: $%s %s", i.What, i.Cost().Round(part.places), part.unit))
		}
	}
	return append(lines, e.Notes...)
}
