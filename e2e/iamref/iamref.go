// Package iamref checks IAM policies, for tests, against AWS's Service Authorization Reference: which actions, resource types and
// condition keys exist for each other.
package iamref

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

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// dir has the reference as data: tools/npm.sh installs it.
var dir = filepath.Join(rig.Root(), "build", "npm", "node_modules", "@cloud-copilot", "iam-data", "data")

// Reference is the Service Authorization Reference.
type Reference struct {
	services map[string]*service
	failed   error // to read a service's data
}

// Statement is a statement of a policy, as it is written in JSON.
type Statement struct {
	Sid, Effect string
	Principal   map[string]string
	Action      List
	Resource    List
	Condition   map[string]map[string]string
}

// Policy is a policy document.
type Policy struct {
	Version   string
	Statement []Statement
}

// List is a string or several.
type List []string

// UnmarshalJSON reads either form.
func (l *List) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*l = List{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(l))
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

// New reads the reference. A test that has none is skipped, and fails in CI.
func New(t *testing.T) *Reference {
	t.Helper()
	if _, err := os.Stat(dir); err != nil {
		rig.LeaveOut(t, "the reference is missing: run make npm: "+err.Error())
	}
	return &Reference{services: make(map[string]*service)}
}

// service returns the data of a service; nil if there is no such service.
func (r *Reference) service(name string) *service {
	if s, ok := r.services[name]; ok {
		return s
	}
	s := &service{}
	for kind, into := range map[string]any{"actions": &s.actions, "resourceTypes": &s.resources, "conditionKeys": &s.keys} {
		text, err := os.ReadFile(filepath.Join(dir, kind, name+".json"))
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

// Err is why a part of the reference could not be read.
func (r *Reference) Err() error { return r.failed }

// Known reports whether there is an action or a condition key of the name. A name that ends with an asterisk stands for the actions that
// begin so.
func (r *Reference) Known(name string) bool {
	prefix, verb, _ := strings.Cut(name, ":")
	s := r.service(prefix)
	if s == nil {
		return false
	}
	if begin, all := strings.CutSuffix(verb, "*"); all {
		for _, a := range s.actions {
			if strings.HasPrefix(a.Name, begin) {
				return true
			}
		}
		return false
	}
	_, _, isAction := r.action(name)
	return isAction || s.keyType(name, s.keyNames()) != ""
}

func (r *Reference) action(name string) (*service, action, bool) {
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
var globalKeys = map[string]string{
	"aws:CalledVia": "ArrayOfString", "aws:PrincipalAccount": "String", "aws:SourceAccount": "String", "aws:SourceArn": "ARN",
}

// everything are the actions that have resource types and that a policy here allows on "*", and why.
var everything = map[string]string{
	"ce:GetCostAndUsage": "its resource, a billing view, is optional, and the call names none",
	"ecs:ListTasks":      "its resource is a container instance, and Fargate has none: a condition names the cluster",
}

// beyondReference are actions on resources of which the reference knows nothing, and why.
var beyondReference = map[string]string{
	"ssmmessages:OpenDataChannel session/${aws:userid}-*": "as in the policies for end users of AWS's guide",
}

// filled puts examples in the place of the placeholders.
var filled = strings.NewReplacer("PARTITION", "aws", "ACCOUNT_ID", "000000000000", "REGION", "eu-central-1",
	"KEY_ID", "01234567-89ab-cdef-0123-456789abcdef")

// Check returns what the reference has against a statement.
func (r *Reference) Check(s Statement) (faults []string) {
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
				case beyondReference[name+" "+resource[strings.LastIndex(resource, ":session/")+1:]] != "":
					used[resource], found = true, true
				}
				for _, t := range act.ResourceTypes {
					if kind := svc.resources[strings.ToLower(t.Name)]; kind.matches(resource) {
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

// colons are those of an ARN before the resource.
const colons = 5

// matches reports whether an ARN may be of the type.
func (t resourceType) matches(arn string) bool {
	if t.ARN == "" {
		return false
	}
	form := t.ARN
	if strings.HasSuffix(arn, ":*") && strings.Count(arn, ":") == colons { // any of the service's resources
		form = strings.Join(strings.SplitN(form, ":", colons+1)[:colons], ":") + ":*"
	}
	pattern := regexp.QuoteMeta(form)
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

// keyNames are the service's condition keys.
func (s *service) keyNames() (names []string) {
	for _, k := range s.keys {
		names = append(names, k.Key)
	}
	return names
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
