package price

import (
	"os"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account"
)

// docs/cost.md has the figures of the table.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/cost.md")
	if err != nil {
		t.Fatal(err)
	}
	regions := []string{"us-east-1", "eu-central-1"}
	row := func(begin string, cells ...string) {
		t.Helper()
		if want := "| " + begin + " | " + strings.Join(cells, " | ") + " |"; !strings.Contains(string(page), want+"\n") {
			t.Errorf("docs/cost.md lacks the row %s", want)
		}
	}
	of := func(in account.Inputs, places int, part func(Estimate) []Item) (cells []string) {
		for _, region := range regions {
			in.Region = region
			s, err := account.New(in)
			if err != nil {
				t.Fatal(err)
			}
			cells = append(cells, "$"+Total(part(Of(s, Options{}))).Round(places))
		}
		return cells
	}
	bold := func(cells []string) []string {
		for i := range cells {
			cells[i] = "**" + cells[i] + "**"
		}
		return cells
	}
	month := func(e Estimate) []Item { return e.Month }
	task := func(e Estimate) (items []Item) { // without the audit log
		for _, i := range e.Hour {
			if strings.Contains(i.What, "vCPU") || strings.Contains(i.What, "memory") {
				items = append(items, i)
			}
		}
		return items
	}
	row("**the stack**", bold(of(account.Inputs{}, 2, month))...)
	endpoints := account.Inputs{Endpoints: account.Endpoints{Make: true}, Subnets: []string{"subnet-0a", "subnet-0b"}}
	row("**the stack with them**", bold(of(endpoints, 2, month))...)
	for _, size := range []struct {
		text        string
		cpu, memory int
	}{{"small | 0.25, 0.5 GB", 256, 512}, {"medium | 0.5, 1 GB", 512, 1024}, {"large (default) | 1, 2 GB", 1024, 2048}} {
		row(size.text, of(account.Inputs{CPU: size.cpu, Memory: size.memory}, 4, task)...)
	}
}
