package survey

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Without a look at the account each answer counts, or is refused: none is passed over.
func TestUnseen(t *testing.T) {
	class := func(name string, allow ...string) account.Class { return account.Class{Name: name, Allow: allow} }
	lists := func(classes ...account.Class) account.Inputs { return account.Inputs{Classes: classes} }
	for name, tt := range map[string]struct {
		answers Answers
		want    string // VPC, whether it makes endpoints and public addresses, and the rules
		note    string
	}{
		"nothing":      {Answers{}, "|false|false|", ""},
		"no":           {Answers{Groups: No, NoEndpoints: true, NoPublicAddress: true}, "|false|false|", ""},
		"all switches": {Answers{VPC: "vpc-1", MakeEndpoints: true, PublicAddress: true}, "vpc-1|true|true|", ""},
		"a list": {
			Answers{Inputs: lists(class("", "10.1.2.0/24:1433", "*.rds.amazonaws.com:5432", "*:5432", "mq.internal:5671"))},
			"|false|false|10.1.2.0/24:1433 VPC:5432 VPC:5671", "opens the ports of these destinations in the VPC only: *.rds",
		},
		"a list of which nothing opens":  {Answers{Inputs: lists(class("", "10.0.0.0/8:1-9"))}, "|false|false|", "no range of ports and stays closed to: 10.0.0.0/8:1-9"},
		"a list, another is a parameter": {Answers{Inputs: lists(class("a", "10.1.2.0/24:1433"), class("b"))}, "|false|false|VPC:3306 VPC:5432 VPC:6379 10.1.2.0/24:1433", ""},
		"one's own group":                {Answers{Inputs: account.Inputs{SecurityGroup: "sg-1", Classes: []account.Class{class("", "10.1.2.0/24:1433")}}}, "|false|false|", ""},
	} {
		in, notes, err := Unseen(tt.answers)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var rules []string
		for _, r := range in.Egress {
			to := r.CIDR
			if to == "" {
				to = "VPC"
			}
			rules = append(rules, fmt.Sprintf("%s:%d", to, r.Port))
		}
		if got := fmt.Sprintf("%s|%t|%t|%s", in.VPC, in.Endpoints.Make, in.PublicAddress, strings.Join(rules, " ")); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		if text := strings.Join(notes, "; "); !strings.Contains(text, tt.note) || tt.note == "" && text != "" {
			t.Errorf("%s: notes %q, want %q", name, notes, tt.note)
		}
		if _, err := account.New(in); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, a := range map[string]Answers{
		"--change-security-groups yes": {Groups: Yes}, "--vpc main": {VPC: "main"}, "--shared: there is no class": {Shared: map[string]int{"x": 1}},
		"--people: there is no class": {People: map[string][]string{"x": nil}},
	} {
		if _, _, err := Unseen(a); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), name) || fail.NextOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// People are those of a class, and a class without any has none any more.
func TestAdmit(t *testing.T) {
	var a Answers
	for _, text := range []string{"read=analysts,interns", "write="} {
		if err := a.Admit(text); err != nil {
			t.Fatal(err)
		}
	}
	classes, err := a.OfClasses([]account.Class{{Name: "read"}, {Name: "write", Roles: []string{"analysts"}}, {Name: "all", Roles: []string{"admins"}}})
	if got := fmt.Sprint(classes[0].Roles, classes[1].Roles, classes[2].Roles); err != nil || got != "[analysts interns] [] [admins]" {
		t.Errorf("%s, %v", got, err)
	}
	if err := a.Admit(""); fail.KindOf(err) != fail.Usage {
		t.Errorf("no role: %v", err)
	}
}
