package account

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// classics are inputs of stacks of instances that between them choose everything, each way.
var classics = map[string]ClassicInputs{
	"classic": {},
	"classic hours": {
		Name: "hosts", Path: "/data/", Boundary: "arn:aws:iam::000000000000:policy/boundary", Hours: &Hours{From: "07:30", To: "19:05", TimeZone: "Europe/Berlin"},
		InstanceType: "t3.micro", Architecture: "x86_64", Most: 4, CPUTarget: 50, AlarmEmail: "security@example.com", Roles: []string{"analysts"},
		Tags: []Tag{{"team", "data"}}, Egress: []Egress{{Port: 5432, CIDR: "10.0.0.0/16", Description: "PostgreSQL"}},
		EndpointGroups: []string{"sg-0123456789abcdef0"}, PrefixList: "pl-0123456789abcdef0",
	},
	"classic key": {Key: "arn:aws:kms:eu-central-1:000000000000:key/01234567-89ab-cdef-0123-456789abcdef"},
}

func newClassic(t *testing.T, in ClassicInputs) *Stack {
	t.Helper()
	s, err := NewClassic(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// allStacks are the stacks of all variants, of both kinds.
func allStacks(t *testing.T) map[string]*Stack {
	t.Helper()
	all := make(map[string]*Stack)
	for name, in := range variants {
		all[name] = newStack(t, in)
	}
	for name, in := range classics {
		all[name] = newClassic(t, in)
	}
	return all
}

// The emulator makes each variant's stack of instances, changes it and deletes it.
func TestClassicOnMoto(t *testing.T) {
	moto := rig.Moto(t)
	for name, in := range classics {
		t.Run(name, func(t *testing.T) {
			e := newEmulator(t, moto)
			found := e.left()
			in.Roles = nil // they are not in the emulator
			s := newClassic(t, in)
			before := e.deploy(s, types.ChangeSetTypeCreate)
			if made := e.left(); len(made) != len(found)+2 {
				t.Errorf("there are %q, and were %q: want a role and a group more", made, found)
			}
			in.InstanceType = "t4g.micro"
			after := e.deploy(newClassic(t, in), types.ChangeSetTypeUpdate)
			for _, id := range []string{"SessionLog", "InstanceRole", "Instances"} {
				if before[id] == "" || before[id] != after[id] {
					t.Errorf("%s was %q, and is %q after the change of a type", id, before[id], after[id])
				}
			}
			if _, err := e.stacks.DeleteStack(t.Context(), &cloudformation.DeleteStackInput{StackName: aws.String(s.Inputs.Name)}); err != nil {
				t.Fatal(err)
			}
			if left := e.left(); !slices.Equal(left, found) {
				t.Errorf("left are %q, there were %q", left, found)
			}
		})
	}
}

// The instances are there in office hours of the place, and at most as many as wanted.
func TestClassicHours(t *testing.T) {
	s := newClassic(t, classics["classic hours"])
	for id, want := range map[string]string{
		"Open":  `"Recurrence":{"Ref":"OpenAt"},"TimeZone":{"Ref":"TimeZone"},"MinSize":1,"MaxSize":4,"DesiredCapacity":1`,
		"Close": `"Recurrence":{"Ref":"CloseAt"},"TimeZone":{"Ref":"TimeZone"},"MinSize":0,"MaxSize":0,"DesiredCapacity":0`,
	} {
		r, _ := s.Resource(id)
		if text, err := marshal(resolve(r.Properties, intrinsic)); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %s, %v; want %s", id, text, err, want)
		}
	}
	defaults := make(map[string]string)
	for _, p := range s.Parameters {
		defaults[p.Name] = p.Default
	}
	if defaults["OpenAt"] != "30 7 * * MON-FRI" || defaults["CloseAt"] != "5 19 * * MON-FRI" || defaults["TimeZone"] != "Europe/Berlin" {
		t.Errorf("parameters %q", defaults)
	}
	if _, ok := newClassic(t, ClassicInputs{}).Resource("Close"); ok {
		t.Error("without hours the group closes")
	}
}

// Nothing reaches an instance from outside; the client, which takes each security group with the tag bastion for its tasks, does not take
// this.
func TestClassicIsClosed(t *testing.T) {
	for name, in := range classics {
		for _, r := range newClassic(t, in).Resources {
			text, err := marshal(resolve(r.Properties, intrinsic))
			if err != nil {
				t.Fatal(err)
			}
			if ingress := regexp.MustCompile(`Ingress|KeyName|"Key":"bastion"|AmazonSSMManagedInstanceCore`).Find(text); ingress != nil && r.Type != "AWS::KMS::Key" {
				t.Errorf("%s: %s has %s", name, r.ID, ingress)
			}
		}
	}
}

// The error names all invalid inputs at once.
func TestClassicValidate(t *testing.T) {
	_, err := NewClassic(ClassicInputs{
		Name: "Host", InstanceType: "small", Architecture: "ARM64", Most: 99, CPUTarget: 5, IdleMinutes: 61,
		Hours: &Hours{From: "8:00", To: "24:00", Days: "weekdays", TimeZone: "here; there"},
	})
	for _, want := range []string{
		`name "Host"`, `instance type "small"`, `architecture "ARM64"`, "99 instances", "5 percent", "61 minutes", `"8:00"`, `"weekdays"`, `"here; there"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
