package survey

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// reason is what a choice says of something.
func reason(c Choice, what string) string {
	i := slices.IndexFunc(c.Reasons, func(r Reason) bool { return r.What == what })
	if i < 0 {
		return ""
	}
	return c.Reasons[i].Value + ": " + c.Reasons[i].Why
}

// The operator's own list opens the tasks' security group, and a note names what stays closed.
func TestOwnListOpens(t *testing.T) {
	full := make([]string, 0, maxRules)
	for i := range maxRules {
		full = append(full, fmt.Sprintf("10.9.%d.0/24:1521", i))
	}
	for name, tt := range map[string]struct {
		allow []string
		want  string // rules beside that of the database
		note  string
	}{
		"an address and a CIDR":       {[]string{"10.0.0.9:22", "10.9.0.0/16:1521"}, "10.0.0.9/32:22 10.9.0.0/16:1521", ""},
		"one within another":          {[]string{"10.9.0.0/16:1521", "10.9.1.0/24:1521"}, "10.9.0.0/16:1521", ""},
		"the database":                {[]string{"*abcdefghij12.eu-central-1.rds.amazonaws.com:5432"}, "", ""},
		"the database by its address": {[]string{"orders.abcdefghij12.eu-central-1.rds.amazonaws.com:5432"}, "", ""},
		"a name":                      {[]string{"mq.example.com:5671"}, "10.0.0.0/16:5671", "opens the ports of these destinations in 10.0.0.0/16 only: mq.example.com:5671 ("},
		"anything":                    {[]string{"*:5671"}, "10.0.0.0/16:5671", "in 10.0.0.0/16 only: *:5671 ("},
		"HTTPS, open for AWS":         {[]string{"example.com:443", "0.0.0.0/0:443"}, "", ""},
		"a range of ports":            {[]string{"10.9.0.0/16:5000-6000", "10.9.0.0/16:*"}, "", "no range of ports and stays closed to: 10.9.0.0/16:5000-6000, 10.9.0.0/16:* ("},
		"IPv6":                        {[]string{"[2001:db8::1]:443"}, "", "no IPv6 address and stays closed to: [2001:db8::1]:443 ("},
		"too many":                    {full, strings.Join(full[:maxRules-2], " "), "at most 40 rules and stays closed to: 10.9.38.0/24:1521, 10.9.39.0/24:1521 ("},
	} {
		in := account.Inputs{Classes: []account.Class{{Name: "a", Allow: tt.allow}}}
		c, err := Choose(land(vpc(subnet(1, "a", WayNAT))), Answers{Groups: Yes, Inputs: in})
		if err != nil {
			t.Fatal(err)
		}
		var rules []string
		for _, r := range c.Inputs.Egress {
			if r.CIDR != "" {
				rules = append(rules, fmt.Sprintf("%s:%d", r.CIDR, r.Port))
			}
		}
		if got := strings.Join(rules, " "); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		if notes := strings.Join(c.Notes, "; "); !strings.Contains(notes, tt.note) || tt.note == "" && notes != "" {
			t.Errorf("%s: notes %q, want %q", name, notes, tt.note)
		}
		if _, err := account.New(c.Inputs); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The plan shows the lists that it deploys, a line for each class.
func TestListsShown(t *testing.T) {
	l := land(vpc(subnet(1, "a", WayNAT)))
	c, err := Choose(l, Answers{Inputs: account.Inputs{Classes: []account.Class{{Name: "a", Allow: []string{"10.0.0.9:22"}}, {Name: "b"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]string{
		"allow-list of class a": "10.0.0.9:22: you chose it",
		"allow-list of class b": "*abcdefghij12.eu-central-1.rds.amazonaws.com:5432: names of this account's databases",
	} {
		if got := reason(c, what); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	if got := reason(c, "allow-list"); got != "" {
		t.Errorf("a list that no class has: %q", got)
	}
}

// --egress names CIDRs, addresses, security groups and the VPC, each with a port, and is refused where it names nothing of the kind.
func TestLetOut(t *testing.T) {
	var a Answers
	for _, list := range []string{"10.1.0.0/16:5432,sg-0a:6379", "vpc:1433,10.9.8.7:22"} {
		if err := a.LetOut(list); err != nil {
			t.Fatal(err)
		}
	}
	want := []account.Egress{
		{Port: 5432, CIDR: "10.1.0.0/16", Description: Chosen},
		{Port: 6379, Group: "sg-0a", Description: Chosen},
		{Port: 1433, Description: Chosen},
		{Port: 22, CIDR: "10.9.8.7/32", Description: Chosen},
	}
	if !slices.Equal(a.Inputs.Egress, want) {
		t.Errorf("%+v", a.Inputs.Egress)
	}
	if _, err := account.New(a.Inputs); err != nil {
		t.Error(err)
	}
	for text, part := range map[string]string{
		"": "is no rule", "10.1.0.0/16": "is no rule", "10.1.0.0/16:*": "is no rule", "orders.example.com:5432": "is no rule", ":5432": "is no rule",
		"10.1.2.3/16:22": "without host bits", "vpc:1,": "is no rule",
	} {
		if err := new(Answers).LetOut(text); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), part) || fail.NextOf(err) == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// The operator's rules are the only ones, and a note names the destinations at whose ports there is none.
func TestChosenEgress(t *testing.T) {
	var a Answers
	if err := a.LetOut("10.0.0.0/16:5432,sg-0a:6379,vpc:1433"); err != nil {
		t.Fatal(err)
	}
	a.Inputs.Classes = []account.Class{{Allow: []string{"*.example.com:5432", "10.7.0.0/16:6000-6400", "10.7.0.0/16:1-9", "example.com:443", "*:9200"}}}
	c, err := Choose(land(vpc(subnet(1, "a", WayNAT))), a)
	if err != nil {
		t.Fatal(err)
	}
	const note = "no rule of --egress has the port of: 10.7.0.0/16:1-9, *:9200"
	if !slices.Equal(c.Inputs.Egress, a.Inputs.Egress) || !slices.Contains(c.Notes, note) {
		t.Errorf("%+v, notes %q", c.Inputs.Egress, c.Notes)
	}
	if got := reason(c, "egress"); got != "0.0.0.0/0:443 (AWS); 10.0.0.0/16:5432, sg-0a:6379, vpc:1433: you chose it" {
		t.Errorf("reason %q", got)
	}
	in, notes, err := Unseen(a)
	if err != nil || !slices.Equal(in.Egress, a.Inputs.Egress) || !slices.Equal(notes, []string{note}) {
		t.Errorf("without a look: %+v, %q, %v", in.Egress, notes, err)
	}
}

// The reason for the egress has the way to AWS.
func TestEgressToAWS(t *testing.T) {
	for want, v := range map[string]VPC{
		"0.0.0.0/0:443 (AWS); sg-0d:5432":                       vpc(subnet(1, "a", WayNAT)),
		"the stack's endpoints:443, pl-1:443 (AWS); sg-0d:5432": vpc(subnet(1, "a", WayNone)),
		"sg-0e:443, pl-1:443 (AWS); sg-0d:5432":                 vpc(subnet(1, "a", WayNone)).with(append(all("sg-0e"), gateway("rtb-1"))...),
	} {
		c, err := Choose(land(v), Answers{})
		if err != nil {
			t.Fatal(err)
		}
		if got := reason(c, "egress"); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// One security group is no plural, and a note on what AWS did not show has the cause.
func TestChooseWords(t *testing.T) {
	l := land(vpc(subnet(1, "a", WayNAT)))
	l.Findings = []Finding{{"ElastiCache clusters", actionCaches, errors.New("denied")}}
	c, err := Choose(l, Answers{})
	if err != nil || len(c.Questions) != 1 || !strings.Contains(c.Questions[0].Text, "into 1 security group not its own?") {
		t.Errorf("%v, %+v", err, c.Questions)
	}
	if !slices.ContainsFunc(c.Notes, func(n string) bool {
		return strings.HasPrefix(n, "AWS did not show ElastiCache clusters (") && strings.HasSuffix(n, "denied")
	}) {
		t.Errorf("%q", c.Notes)
	}
}
