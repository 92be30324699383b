package account

import (
	"fmt"
	"strings"
)

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

// GuideFiles returns the JSON files of the guide in bastion-image, by their paths there, and the template.
func GuideFiles() (map[string][]byte, error) {
	s, err := New(guide())
	if err != nil {
		return nil, err
	}
	class := s.Inputs.Classes[0]
	// A command of the guide puts the account's own in the place of these words.
	placeholders := Deployment{
		Partition: "PARTITION", Region: "REGION", Account: "ACCOUNT_ID",
		Values: map[any]string{
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
	files["template.json"], err = template.CloudFormation()
	return files, err
}

// apiNames are the names of CloudFormation's properties as ECS's API has them, which begin in lower case. Options of a log driver have
// names of their own.
func apiNames(v any) any {
	switch v := v.(type) {
	case Object:
		out := make(Object, len(v))
		for i, m := range v {
			out[i] = Member{strings.ToLower(m.Name[:1]) + m.Name[1:], apiNames(m.Value)}
		}
		return out
	case List:
		out := make(List, len(v))
		for i, e := range v {
			out[i] = apiNames(e)
		}
		return out
	}
	return v
}
