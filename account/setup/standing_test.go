package setup

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/internal/fail"
)

const listedOrders = "*abcdefghij12.eu-central-1.rds.amazonaws.com:5432"

// standingLand is a VPC with a private and a public subnet, and the databases orders and billing, whose groups let nobody in.
func standingLand() survey.Landscape {
	subnet := func(id, cidr string, way survey.Way) survey.Subnet {
		return survey.Subnet{ID: id, Zone: region + "a", ZoneID: "euc1-az1", CIDR: netip.MustParsePrefix(cidr), Free: 99, RouteTable: "rtb-1", Way: way}
	}
	database := func(name, group string, port int) survey.Database {
		return survey.Database{
			Name: "rds:" + name, Engine: "postgres", VPC: "vpc-1", Groups: []string{group}, Ports: []int{port},
			Addresses: []survey.Address{{Host: name + ".abcdefghij12.eu-central-1.rds.amazonaws.com", Port: port}},
		}
	}
	return survey.Landscape{
		Region: region, Account: "123456789012", Partition: "aws", PrefixList: "pl-1",
		VPCs: []survey.VPC{{
			ID: "vpc-1", Name: "data", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
			Subnets: []survey.Subnet{subnet("subnet-1", "10.0.1.0/24", survey.WayNAT), subnet("subnet-2", "10.0.2.0/24", survey.WayInternet)},
		}},
		Databases: []survey.Database{database("billing", "sg-0b", 5433), database("orders", "sg-0a", 5432)},
		Groups:    []survey.Group{{ID: "sg-0a", Name: "orders", VPC: "vpc-1"}, {ID: "sg-0b", Name: "billing", VPC: "vpc-1"}},
	}
}

var toOrders = account.Ingress{Group: "sg-0a", Port: 5432, For: "rds:orders"}

// standingPlan is the plan of answers for a stack that lets its tasks into the group of orders.
func standingPlan(t *testing.T, answers survey.Answers) (*Plan, error) {
	t.Helper()
	answers.Inputs.Name = "bastion"
	s := &Setup{Answers: answers, Version: "v1"}
	state := deploy.State{Own: true, Inputs: account.Inputs{
		Name: "bastion", Region: region, VPC: "vpc-1", VPCCIDR: "10.0.0.0/16", Subnets: []string{"subnet-1"}, Ingress: []account.Ingress{toOrders},
		Egress:  []account.Egress{{Port: 5432, Group: "sg-0a", Description: "rds:orders"}},
		Classes: []account.Class{{Allow: []string{listedOrders, "10.0.0.9:22"}}},
	}}
	plan := &Plan{Exists: true}
	in, err := s.standing(plan, standingLand(), state)
	if err != nil {
		return nil, err
	}
	return plan, s.complete(plan, in)
}

// An answer changes a stack that stands: rules that are missing come, and with No all of them go. The plan shows these alone.
func TestStandingGroups(t *testing.T) {
	for answer, want := range map[string]struct {
		rules []string
		yours string
	}{
		"":         {[]string{"sg-0a"}, ""},
		survey.Yes: {[]string{"sg-0a", "sg-0b"}, "security group sg-0b: lets the tasks in at port 5433 (rds:billing)"},
		survey.No:  {nil, "security group sg-0a: no longer lets the tasks in at port 5432 (rds:orders)"},
	} {
		plan, err := standingPlan(t, survey.Answers{Groups: answer})
		if err != nil {
			t.Fatal(err)
		}
		var rules []string
		for _, i := range plan.Stack.Inputs.Ingress {
			rules = append(rules, i.Group)
		}
		if yours := strings.Join(plan.Show().Yours, "\n"); !slices.Equal(rules, want.rules) || yours != want.yours {
			t.Errorf("%q: rules %q, shown %q", answer, rules, yours)
		}
	}
}

// A public address needs a public subnet.
func TestStandingPublicAddress(t *testing.T) {
	if _, err := standingPlan(t, survey.Answers{PublicAddress: true}); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "internet gateway") {
		t.Errorf("in a private subnet: %v", err)
	}
	plan, err := standingPlan(t, survey.Answers{PublicAddress: true, Inputs: account.Inputs{Subnets: []string{"subnet-2"}}})
	if err != nil || !plan.settings(nil).PublicAddress {
		t.Errorf("in a public one: %v, %+v", err, plan)
	}
}

// What a stack cannot follow is refused, by the name of the option and with what to do.
func TestStandingRefuses(t *testing.T) {
	for option, answers := range map[string]survey.Answers{"--vpc vpc-2": {VPC: "vpc-2"}, "--make-endpoints yes": {MakeEndpoints: true}} {
		_, err := standingPlan(t, answers)
		if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), option) || !strings.Contains(fail.NextOf(err), "bastion destroy") {
			t.Errorf("%s: %v, next %q", option, err, fail.NextOf(err))
		}
	}
	if _, err := standingPlan(t, survey.Answers{Inputs: account.Inputs{SecurityGroup: "sg-0c"}}); fail.KindOf(err) != fail.Usage {
		t.Errorf("a security group that is not there: %v", err)
	}
	if _, err := standingPlan(t, survey.Answers{Inputs: account.Inputs{SecurityGroup: "sg-0b"}}); err != nil {
		t.Errorf("another security group of the VPC: %v", err)
	}
	for _, own := range []string{"vpc-1", "data"} {
		if _, err := standingPlan(t, survey.Answers{VPC: own}); err != nil {
			t.Errorf("the stack's own VPC %s: %v", own, err)
		}
	}
}

// Notes are about what has come since the deployment, and about what a new list takes away.
func TestStandingLists(t *testing.T) {
	const news = "not on the list of destinations, because it was not there before: *abcdefghij12.eu-central-1.rds.amazonaws.com:5433"
	for name, tt := range map[string]struct {
		allow []string
		want  []string
	}{
		"no list":      {nil, []string{news}},
		"a wider list": {[]string{listedOrders, "10.0.0.9:22", "*abcdefghij12.eu-central-1.rds.amazonaws.com:5433"}, nil},
		"another list": {[]string{"10.0.0.9:22"}, []string{"removed from the list of destinations: " + listedOrders}},
	} {
		var answers survey.Answers
		if tt.allow != nil {
			answers.Inputs.Classes = []account.Class{{Allow: tt.allow}}
		}
		plan, err := standingPlan(t, answers)
		if err != nil {
			t.Fatal(err)
		}
		notes := slices.DeleteFunc(slices.Clone(plan.Choice.Notes), func(note string) bool { return strings.HasPrefix(note, "the tasks' security group") })
		if !slices.EqualFunc(notes, tt.want, strings.HasPrefix) {
			t.Errorf("%s: notes %q", name, notes)
		}
	}
}

// A plan names what AWS did not show once, and the class of each image.
func TestShowOnce(t *testing.T) {
	plan, err := standingPlan(t, survey.Answers{})
	if err != nil {
		t.Fatal(err)
	}
	plan.Findings = []survey.Finding{{What: "RDS instances", Action: "rds:DescribeDBInstances", Err: errors.New("denied")}}
	plan.Choice.Notes = []string{"AWS did not show RDS instances (rds:DescribeDBInstances), so that ...: denied"}
	plan.Images = []Image{{Class: "ops", Tag: "v1-1"}, {Tag: "v1-2"}}
	shown := plan.Show()
	if len(shown.Notes) != 1 || !slices.Equal(shown.Images, []string{"v1-1 (class ops)", "v1-2"}) {
		t.Errorf("notes %q, images %q", shown.Notes, shown.Images)
	}
	plan.Choice.Notes = nil
	if shown := plan.Show(); len(shown.Notes) != 1 {
		t.Errorf("without a note of the choice: %q", shown.Notes)
	}
}

// A new list opens the stack's own security group, and leaves the rules that were there.
func TestStandingOpens(t *testing.T) {
	plan, err := standingPlan(t, survey.Answers{Inputs: account.Inputs{Classes: []account.Class{{Allow: []string{listedOrders, "10.9.0.0/16:1521"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	egress := plan.Stack.Inputs.Egress
	if len(egress) != 2 || egress[0].Group != "sg-0a" || egress[1].CIDR != "10.9.0.0/16" || egress[1].Port != 1521 {
		t.Errorf("%+v", egress)
	}
}

// No is an answer too: public addresses go where the subnets have another way to AWS, and endpoints that others use stay.
func TestStandingNo(t *testing.T) {
	state := func(change func(*account.Inputs)) deploy.State {
		in := account.Inputs{
			Name: "bastion", Region: region, VPC: "vpc-1", VPCCIDR: "10.0.0.0/16", Subnets: []string{"subnet-1"}, PublicAddress: true,
			Classes: []account.Class{{Allow: []string{listedOrders}}},
		}
		change(&in)
		return deploy.State{Own: true, Inputs: in}
	}
	for name, tt := range map[string]struct {
		answer string
		state  deploy.State
		want   string // of the error
	}{
		"public address":             {survey.FlagPublic, state(func(*account.Inputs) {}), ""},
		"the only way":               {survey.FlagPublic, state(func(in *account.Inputs) { in.Subnets = []string{"subnet-2"} }), "by its public address alone"},
		"endpoints":                  {survey.FlagEndpoints, state(func(in *account.Inputs) { in.Endpoints.Make = true }), "whoever else is in the VPC"},
		"endpoints that it has not":  {survey.FlagEndpoints, state(func(*account.Inputs) {}), ""},
		"public address, and others": {survey.FlagPublic, state(func(in *account.Inputs) { in.Subnets, in.Endpoints.Groups = []string{"subnet-2"}, []string{"sg-1"} }), ""},
	} {
		s := &Setup{Version: "v1", Answers: survey.Answers{Inputs: account.Inputs{Name: "bastion"}}}
		if err := s.Answers.Answer(tt.answer, survey.No); err != nil {
			t.Fatal(err)
		}
		in, err := s.standing(&Plan{Exists: true}, standingLand(), tt.state)
		if (err == nil) != (tt.want == "") || err != nil && (fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if err == nil && in.PublicAddress != (tt.answer != survey.FlagPublic) {
			t.Errorf("%s: public addresses %t", name, in.PublicAddress)
		}
	}
}

// The operator's own rules take the place of those that the stack has, and stay when the lists change.
func TestStandingChosenEgress(t *testing.T) {
	var answers survey.Answers
	if err := answers.LetOut("10.0.0.0/16:5433"); err != nil {
		t.Fatal(err)
	}
	plan, err := standingPlan(t, answers)
	if err != nil {
		t.Fatal(err)
	}
	const note = "no rule of --egress has the port of: " + listedOrders + ", 10.0.0.9:22"
	if got := plan.Stack.Inputs.Egress; !slices.Equal(got, answers.Inputs.Egress) || !slices.Contains(plan.Choice.Notes, note) {
		t.Errorf("%+v, notes %q", got, plan.Choice.Notes)
	}
	in := account.Inputs{Name: "bastion", Egress: answers.Inputs.Egress, Classes: []account.Class{{Allow: []string{"10.0.0.9:22"}}}}
	notes := open(&in, deploy.State{}, nil)
	if !slices.Equal(in.Egress, answers.Inputs.Egress) || !slices.Equal(notes, []string{"no rule of --egress has the port of: 10.0.0.9:22"}) {
		t.Errorf("after another list: %+v, notes %q", in.Egress, notes)
	}
}

// The rules of the stack's own security group follow a new list: what no list needs goes, also what an earlier list had added, and a
// stack with the model's rules gets them listed only if that changes something.
func TestStandingEgressFollowsTheLists(t *testing.T) {
	usual := account.UsualEgress([]string{"10.0.0.0/16"})
	byGroup := account.Egress{Port: 5432, Group: "sg-0a", Description: "rds:orders"}
	added := account.Egress{Port: 1521, CIDR: "10.9.0.0/16", Description: survey.Listed}
	for name, tt := range map[string]struct {
		had   []account.Egress
		allow []string
		want  []account.Egress
		note  string
	}{
		"no rules, a port that they lack": {nil, []string{"10.9.0.0/16:1521", "*:5432", "*:3306", "*:6379"}, append(slices.Clone(usual), added), ""},
		"no rules, nothing new":           {nil, []string{"10.0.0.0/16:5432", "10.0.0.0/16:3306", "10.0.0.0/16:6379"}, nil, ""},
		"no rules, fewer ports":           {nil, []string{"10.0.0.0/16:5432"}, usual[1:2], "no longer leads to: 10.0.0.0/16:3306, 10.0.0.0/16:6379"},
		"what a list had added":           {[]account.Egress{byGroup, added}, []string{listedOrders}, []account.Egress{byGroup}, "no longer leads to: 10.9.0.0/16:1521"},
		"a database's":                    {[]account.Egress{byGroup, added}, []string{"10.9.0.0/16:1521"}, []account.Egress{added}, "no longer leads to: sg-0a:5432"},
		"a range of ports":                {[]account.Egress{byGroup}, []string{"10.0.0.0/16:5000-6000"}, []account.Egress{byGroup}, ""},
		"none is left":                    {[]account.Egress{byGroup}, []string{"10.0.0.0/16:1-9"}, []account.Egress{byGroup}, ""},
	} {
		in := account.Inputs{Name: "bastion", MoreCIDRs: nil, Egress: tt.had, Classes: []account.Class{{Allow: tt.allow}}}
		state := deploy.State{Inputs: account.Inputs{Classes: []account.Class{{Allow: []string{listedOrders}}}}, Parameters: map[string]string{"VpcCidr": "10.0.0.0/16"}}
		notes := open(&in, state, []string{listedOrders})
		if !slices.Equal(in.Egress, tt.want) {
			t.Errorf("%s: %+v, want %+v", name, in.Egress, tt.want)
		}
		if text := strings.Join(notes, "; "); !strings.Contains(text, tt.note) || tt.note == "" && strings.Contains(text, "no longer") {
			t.Errorf("%s: %q", name, notes)
		}
	}
}

// Lists say nothing of the people of a class: it keeps them until --people says otherwise.
func TestStandingPeople(t *testing.T) {
	list := account.Inputs{Classes: []account.Class{{Allow: []string{listedOrders}}}}
	const gone = "role analysts: loses the policy of the bastions' people"
	for name, tt := range map[string]struct {
		answers survey.Answers
		want    []string
		yours   string
	}{
		"as it was":  {survey.Answers{}, []string{"analysts"}, ""},
		"a new list": {survey.Answers{Inputs: list}, []string{"analysts"}, ""},
		"others": {
			survey.Answers{Inputs: list, People: map[string][]string{"": {"interns"}}},
			[]string{"interns"},
			"role interns: gets the policy of the bastions' people; " + gone,
		},
		"nobody": {survey.Answers{People: map[string][]string{"": nil}}, nil, gone},
	} {
		tt.answers.Inputs.Name = "bastion"
		s := &Setup{Answers: tt.answers, Version: "v1"}
		plan := &Plan{Exists: true}
		in, err := s.standing(plan, standingLand(), deploy.State{Own: true, Inputs: account.Inputs{
			Name: "bastion", Region: region, VPC: "vpc-1", VPCCIDR: "10.0.0.0/16", Subnets: []string{"subnet-1"},
			Classes: []account.Class{{Allow: []string{listedOrders}, Roles: []string{"analysts"}}},
		}})
		if err == nil {
			err = s.complete(plan, in)
		}
		if got := plan.Stack.Inputs.Classes[0].Roles; err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
		if yours := strings.Join(plan.Show().Yours, "; "); yours != tt.yours {
			t.Errorf("%s: of others it changes %q, want %q", name, yours, tt.yours)
		}
	}
}

// Lists say nothing of shared tasks: a class keeps them until --shared says otherwise. The plan tells its people what sharing means.
func TestStandingShared(t *testing.T) {
	for name, tt := range map[string]struct {
		answers survey.Answers
		want    int
	}{
		"as it was":  {survey.Answers{}, 2},
		"a new list": {survey.Answers{Inputs: account.Inputs{Classes: []account.Class{{Allow: []string{listedOrders}}}}}, 2},
		"more":       {survey.Answers{Shared: map[string]int{"": 3}}, 3},
		"none":       {survey.Answers{Shared: map[string]int{"": 0}}, 0},
	} {
		tt.answers.Inputs.Name = "bastion"
		s := &Setup{Answers: tt.answers, Version: "v1"}
		plan := &Plan{Exists: true}
		in, err := s.standing(plan, standingLand(), deploy.State{Own: true, Inputs: account.Inputs{
			Name: "bastion", Region: region, VPC: "vpc-1", VPCCIDR: "10.0.0.0/16", Subnets: []string{"subnet-1"},
			Classes: []account.Class{{Allow: []string{listedOrders}, Shared: 2}},
		}})
		if err == nil {
			err = s.complete(plan, in)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := plan.Stack.Inputs.Classes[0].Shared; got != tt.want {
			t.Errorf("%s: %d tasks, want %d", name, got, tt.want)
		}
		if told := strings.Contains(strings.Join(plan.Show().Notes, " "), "is root in it"); told != (tt.want > 0) {
			t.Errorf("%s: the plan tells what sharing means: %t", name, told)
		}
	}
	for _, text := range []string{"x", "team=x", "-1", "team=-1"} {
		if err := new(survey.Answers).Share(text); fail.KindOf(err) != fail.Usage {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := (survey.Answers{Shared: map[string]int{"team": 1}}).OfClasses([]account.Class{{Name: "own"}}); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), `"team"`) {
		t.Errorf("%v", err)
	}
}
