package account

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the files that the model makes, in place of comparing them")

// deployment has the facts by which references become text.
type deployment struct {
	partition, region, account, urlSuffix string
	values                                map[any]string // of a Ref or an Attr
}

// literal is a reference's text in the deployment.
func (d deployment) literal(v any) any { return d.text(v) }

func (d deployment) text(v any) string {
	switch v := v.(type) {
	case Pseudo:
		return map[Pseudo]string{Partition: d.partition, Region: d.region, Account: d.account, URLSuffix: d.urlSuffix}[v]
	case Text:
		return v.join(d.text)
	}
	if text, ok := d.values[v]; ok {
		return text
	}
	panic(fmt.Sprintf("the deployment has no value for %#v", v))
}

// guide are the inputs of the guide's files: a stack called "bastion", roles by the names that the guide gives them, any KMS key of the
// account.
func guide() Inputs {
	role := func(name string) string { return "arn:PARTITION:iam::ACCOUNT_ID:role/bastion-" + name }
	return Inputs{
		Key:           "arn:PARTITION:kms:REGION:ACCOUNT_ID:key/*",
		ExecutionRole: role("execution"),
		TaskRole:      role("task"),
	}
}

// guideFiles returns the JSON files of the guide in bastion-image, by their paths there, and the template.
func guideFiles() (map[string][]byte, error) {
	s, err := New(guide())
	if err != nil {
		return nil, err
	}
	class := s.Inputs.Classes[0]
	// A command of the guide puts the account's own in the place of these words.
	placeholders := deployment{
		partition: "PARTITION", region: "REGION", account: "ACCOUNT_ID",
		values: map[any]string{
			Attr{"Repository", "RepositoryUri"}: "REPOSITORY_URI",
			Ref(paramImage):                     s.Inputs.ImageTag,
			Ref(paramAllow):                     "ALLOW_LIST",
			Ref("AuditLog"):                     s.logGroup(),
		},
	}
	files := make(map[string][]byte)
	for path, content := range map[string]Object{
		"iam/ecs-tasks-trust.json": tasksOfThisAccount().document(),
		"iam/execution-role.json":  s.executionRole().document(),
		"iam/task-role.json":       s.taskRole().document(),
		"iam/user.json":            s.userPolicy(class).document(),
		"task-definition.json":     append(apiNames(s.taskDefinition(class)).(Object), Member{"tags", List{Object{{"key", "bastion"}, {"value", "true"}}}}),
	} {
		text, err := indented(resolve(content, placeholders.literal))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		files[path] = text
	}
	template, err := New(Inputs{Endpoints: Endpoints{Make: true}})
	if err != nil {
		return nil, err
	}
	if files["template.json"], err = template.CloudFormation(); err != nil {
		return nil, err
	}
	hours, err := NewClassic(ClassicInputs{Hours: &Hours{From: "07:00", To: "19:00"}})
	if err != nil {
		return nil, err
	}
	if files["classic-hours.json"], err = hours.CloudFormation(); err != nil {
		return nil, err
	}
	classic, err := NewClassic(ClassicInputs{})
	if err != nil {
		return nil, err
	}
	if files["classic.json"], err = classic.CloudFormation(); err != nil {
		return nil, err
	}
	files["classic.tf"], err = classic.Terraform()
	return files, err
}

// The guide's files are what the model makes. To make them anew: go test ./account -run TestGuideFiles -update
func TestGuideFiles(t *testing.T) {
	files, err := guideFiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		path, want := filepath.Join("..", "bastion-image", path), files[path]
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the model makes (%v): go test ./account -run TestGuideFiles -update", path, err)
		}
	}
}

// The guide gives the template's parameters those that have no default, by their names.
func TestGuideGivesTheParameters(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join("..", "docs", "by-hand.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, command, found := strings.Cut(string(guide), "--parameter-overrides")
	command, _, _ = strings.Cut(command, "aws cloudformation")
	var given []string
	for _, m := range regexp.MustCompile(`\s([A-Z][A-Za-z0-9]+)=`).FindAllStringSubmatch(command, -1) {
		given = append(given, m[1])
	}
	var needed []string
	for _, p := range newStack(t, Inputs{Endpoints: Endpoints{Make: true}}).Parameters {
		if p.Default == "" {
			needed = append(needed, p.Name)
		}
	}
	slices.Sort(given)
	slices.Sort(needed)
	if !found || !slices.Equal(given, needed) {
		t.Errorf("the guide gives %q, the template needs %q", given, needed)
	}
}
