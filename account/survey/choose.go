package survey

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// The flags by which an operator answers. FlagVPC and FlagGroups are questions too.
const (
	FlagVPC       = "vpc"                    // a VPC's id or name
	FlagGroups    = "change-security-groups" // Yes or No
	FlagEndpoints = "make-endpoints"         // Yes or No
	FlagPublic    = "public-address"         // Yes or No
	FlagShared    = "shared"                 // [CLASS=]TASKS
	FlagPeople    = "people"                 // [CLASS=]ROLE,...
	FlagEgress    = "egress"                 // CIDR:PORT, sg-...:PORT or vpc:PORT, ...
)

// The answers to questions that want no name.
const (
	Yes = "yes"
	No  = "no"
)

// Answers are what the operator has said.
type Answers struct {
	// Inputs are choices by other flags. Choose keeps what is set and fills in the rest.
	Inputs account.Inputs

	VPC           string // id or name; empty: not said
	Groups        string // Yes or No: whether to let tasks into security groups of others; empty: not said
	MakeEndpoints bool   // make VPC endpoints even where a NAT gateway leads to AWS
	PublicAddress bool   // run tasks in public subnets, with a public address each
	// NoEndpoints and NoPublicAddress say that the operator has said No, which matters to a stack that stands.
	NoEndpoints, NoPublicAddress bool

	// Shared says, by class, how many tasks its people share; 0: none. A class that is not in it stays as it is.
	Shared map[string]int
	// People says, by class, the names of the roles whose people may use it. A class that is not in it stays as it is.
	People map[string][]string
}

// Share sets what --shared says: TASKS of the only class, or CLASS=TASKS.
func (a *Answers) Share(text string) error {
	class, number, named := strings.Cut(text, "=")
	if !named {
		class, number = "", text
	}
	tasks, err := strconv.Atoi(number)
	if err != nil || tasks < 0 {
		return fail.Usagef("write --"+FlagShared+" TASKS, or CLASS=TASKS", "--%s %q has no number of tasks", FlagShared, text)
	}
	if a.Shared == nil {
		a.Shared = make(map[string]int)
	}
	a.Shared[class] = tasks
	return nil
}

// Admit sets what --people says: ROLE,... of the only class, or CLASS=ROLE,... Without a role, nobody's role gets the class's policy.
func (a *Answers) Admit(text string) error {
	class, list, named := strings.Cut(text, "=")
	if !named {
		class, list = "", text
	}
	if list == "" && !named {
		return fail.Usagef("write --"+FlagPeople+" ROLE,... or CLASS=ROLE,...", "--%s names no role", FlagPeople)
	}
	if a.People == nil {
		a.People = make(map[string][]string)
	}
	a.People[class] = nil
	if list != "" {
		a.People[class] = strings.Split(list, ",")
	}
	return nil
}

// OfClasses returns classes with what --shared and --people say of them.
func (a Answers) OfClasses(classes []account.Class) ([]account.Class, error) {
	classes = slices.Clone(classes)
	for _, name := range slices.Sorted(maps.Keys(a.Shared)) {
		i, err := classOf(classes, name, FlagShared, "TASKS")
		if err != nil {
			return nil, err
		}
		classes[i].Shared = a.Shared[name]
	}
	for _, name := range slices.Sorted(maps.Keys(a.People)) {
		i, err := classOf(classes, name, FlagPeople, "ROLE,...")
		if err != nil {
			return nil, err
		}
		classes[i].Roles = a.People[name]
	}
	return classes, nil
}

// classOf returns the place of the class that a flag names.
func classOf(classes []account.Class, name, flag, value string) (int, error) {
	i := slices.IndexFunc(classes, func(c account.Class) bool { return c.Name == name })
	if i < 0 {
		var names []string
		for _, c := range classes {
			names = append(names, c.Name)
		}
		return i, fail.Usagef("write --"+flag+" CLASS="+value+" with one of "+cmp.Or(strings.Join(names, ", "), "the classes of --class")+
			"; leave CLASS= out if there is but one without a name", "--%s: there is no class %q", flag, name)
	}
	return i, nil
}

// Answer sets what a flag says.
func (a *Answers) Answer(flag, value string) error {
	wrong := fail.Usagef("write --"+flag+" "+Yes+" or --"+flag+" "+No, "--%s %q is neither %s nor %s", flag, value, Yes, No)
	if flag != FlagVPC && value != Yes && value != No {
		return wrong
	}
	switch flag {
	case FlagVPC:
		a.VPC = value
	case FlagGroups:
		a.Groups = value
	case FlagEndpoints:
		a.MakeEndpoints, a.NoEndpoints = value == Yes, value == No
	case FlagPublic:
		a.PublicAddress, a.NoPublicAddress = value == Yes, value == No
	default:
		return fail.Usagef("", "--%s answers no question of the survey", flag)
	}
	return nil
}

// Question is what only the operator can decide.
type Question struct {
	Flag       string // that answers it
	Text       string
	Default    string // value that the choice is made with until the question is answered
	Candidates []Candidate
}

// Candidate is a possible answer.
type Candidate struct {
	Value string
	Word  string // on what it means
}

// Reason is a decision and why.
type Reason struct {
	What  string `json:"what"`
	Value string `json:"value"`
	Why   string `json:"why"`
}

// Choice is the inputs of a stack, and how they came about.
type Choice struct {
	Inputs  account.Inputs
	VPC     VPC
	Subnets []Subnet // those of Inputs
	// PublicAddress tells the setting assign_public_ip.
	PublicAddress bool
	Databases     []Database // in the VPC, which tasks may reach

	// Ingress are the rules that security groups of others lack. Inputs has them if the operator said Yes to FlagGroups.
	Ingress   []account.Ingress
	Reasons   []Reason
	Notes     []string   // what the operator must know or do
	Questions []Question // not answered yet, two at most: ask the first, then choose again
}

// Choose decides what the operator has not. It does no I/O. The error is for a landscape in which no bastion can run as the answers want.
func Choose(l Landscape, a Answers) (Choice, error) {
	c := &chooser{landscape: l, answers: a, choice: Choice{Inputs: a.Inputs, PublicAddress: a.PublicAddress}}
	for _, step := range []func() error{c.vpc, c.network, c.databases, c.groups, c.architecture} {
		if err := step(); err != nil {
			return Choice{}, err
		}
	}
	return c.choice, nil
}

// chooser makes a choice step by step.
type chooser struct {
	landscape Landscape
	answers   Answers
	choice    Choice
	used      []Endpoint // existing endpoints that tasks are led to
}

func (c *chooser) because(what, value, format string, args ...any) {
	c.choice.Reasons = append(c.choice.Reasons, Reason{what, value, fmt.Sprintf(format, args...)})
}

func (c *chooser) note(format string, args ...any) {
	c.choice.Notes = append(c.choice.Notes, fmt.Sprintf(format, args...))
}

// vpc chooses the VPC: that of the databases.
func (c *chooser) vpc() error {
	vpcs := c.landscape.VPCs
	if len(vpcs) == 0 {
		return c.noVPC()
	}
	if said := cmp.Or(c.answers.VPC, c.answers.Inputs.VPC); said != "" {
		var found []VPC
		for _, v := range vpcs {
			if v.ID == said || v.Name == said {
				found = append(found, v)
			}
		}
		if len(found) != 1 {
			return fail.New(fail.Usage, fmt.Sprintf("choose the VPC %q", said), fmt.Errorf("%d VPCs of %s have this id or name: there are %s",
				len(found), c.landscape.Region, c.listed(vpcs)), "name one by its id: --"+FlagVPC+" "+vpcs[0].ID)
		}
		c.take(found[0], "you chose it")
		return nil
	}
	with := slices.DeleteFunc(slices.Clone(vpcs), func(v VPC) bool { return len(c.landscape.in(v.ID)) == 0 })
	switch {
	case len(with) == 1:
		c.take(with[0], "the only VPC with databases: "+names(c.landscape.in(with[0].ID)))
		return nil
	case len(vpcs) == 1:
		c.take(vpcs[0], "the only VPC of the region")
		return nil
	case len(with) == 0:
		with = vpcs
	}
	likely := slices.MinFunc(with, c.likelier)
	q := Question{Flag: FlagVPC, Text: "Which VPC are the bastions for?", Default: likely.ID}
	for _, v := range with {
		q.Candidates = append(q.Candidates, Candidate{v.ID, c.describe(v)})
	}
	c.choice.Questions = append(c.choice.Questions, q)
	c.take(likely, "the likeliest of "+fmt.Sprint(len(with))+": "+c.describe(likely))
	return nil
}

// likelier orders VPCs: more databases first, then one that somebody made before the default one, then one with private subnets.
func (c *chooser) likelier(a, b VPC) int {
	number := func(yes bool) int {
		if yes {
			return 1
		}
		return 0
	}
	private := func(v VPC) bool {
		return slices.ContainsFunc(v.Subnets, func(s Subnet) bool { return s.Way != WayInternet })
	}
	return cmp.Or(
		len(c.landscape.in(b.ID))-len(c.landscape.in(a.ID)),
		number(a.Default)-number(b.Default),
		number(private(b))-number(private(a)),
		strings.Compare(a.ID, b.ID),
	)
}

func (c *chooser) noVPC() error {
	op := "choose a VPC in " + c.landscape.Region
	for _, f := range c.landscape.Findings {
		if f.Action == "ec2:DescribeVpcs" {
			return fmt.Errorf("%s: %w", op, f.Err)
		}
	}
	return fail.New(fail.Usage, op, fmt.Errorf("the account %s has none in this region", c.landscape.Account),
		"check the region and the account (--region, --profile)")
}

func (c *chooser) take(v VPC, why string) {
	c.choice.VPC = v
	in := &c.choice.Inputs
	in.Region, in.VPC = c.landscape.Region, v.ID
	if texts := ranges(v.CIDRs); len(texts) > 0 {
		in.VPCCIDR, in.MoreCIDRs = texts[0], texts[1:]
	}
	c.because("VPC", v.title(), "%s", why)
	c.choice.Databases = c.landscape.in(v.ID)
	for _, d := range c.landscape.Databases {
		if d.VPC == "" && len(c.landscape.VPCs) == 1 {
			c.choice.Databases = append(c.choice.Databases, d)
		}
	}
	if rest := len(c.landscape.Databases) - len(c.choice.Databases); rest > 0 {
		c.note("databases in other VPCs, or in one that AWS does not tell, which these bastions do not reach: %d", rest)
	}
}

// describe is a word on a VPC.
func (c *chooser) describe(v VPC) string {
	words := ranges(v.CIDRs)
	if v.Name != "" {
		words = append([]string{v.Name}, words...)
	}
	if v.Default {
		words = append(words, "the default VPC")
	}
	if v.Shared {
		words = append(words, "another account's")
	}
	switch found := c.landscape.in(v.ID); len(found) {
	case 0:
		words = append(words, "no database")
	case 1:
		words = append(words, "1 database: "+names(found))
	default:
		words = append(words, fmt.Sprintf("%d databases: %s", len(found), names(found)))
	}
	return strings.Join(words, ", ")
}

func (c *chooser) listed(vpcs []VPC) string {
	var texts []string
	for _, v := range vpcs {
		texts = append(texts, v.title())
	}
	return strings.Join(texts, ", ")
}

// architecture is ARM64, as a fifth cheaper, unless the operator chose.
func (c *chooser) architecture() error {
	in := &c.choice.Inputs
	if in.Architecture != "" {
		c.because("architecture", in.Architecture, "you chose it")
		return nil
	}
	in.Architecture = "ARM64"
	for _, s := range c.choice.Subnets {
		if s.ZoneID == withoutARM {
			in.Architecture = "X86_64"
			c.because("architecture", in.Architecture, "the zone %s has no ARM64 for Fargate", s.Zone)
			return nil
		}
	}
	c.because("architecture", in.Architecture, "about a fifth cheaper an hour than X86_64, and the image has both")
	return nil
}
