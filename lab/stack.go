package lab

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"

	"github.com/bastion-ssm/bastion/account"
)

// stack is the template of package account, deployed in the lab: the cluster, the task definition, the roles and the policies that an
// operator gets.
type stack struct {
	site
	key       string // ARN
	shared    int    // tasks of the shared bastion; 0: people have their own
	secrets   []account.Secret
	resources map[string]stackResource
}

type stackResource struct {
	Type       string
	Properties json.RawMessage
}

// newStack deploys the template with a key of the lab's; its only class is shared if it has shared tasks. The stack's own key would be as
// good, but the lab has just one.
func newStack(at site, key string, cfg Config) (*stack, error) {
	model, err := account.New(account.Inputs{
		Region: at.region, Classes: []account.Class{{Shared: cfg.Shared}}, ExecLogs: cfg.ExecLogs, Secrets: cfg.Secrets,
	})
	if err != nil {
		return nil, err
	}
	text, err := model.CloudFormation()
	if err != nil {
		return nil, err
	}
	s := &stack{site: at, key: key, shared: cfg.Shared, secrets: cfg.Secrets}
	if err := json.Unmarshal(text, &struct{ Resources *map[string]stackResource }{&s.resources}); err != nil {
		return nil, fmt.Errorf("read the template: %w", err)
	}
	return s, nil
}

// read decodes a resource's properties with values in place of references.
func (s *stack) read(id string, into any) error {
	var properties any
	err := json.Unmarshal(s.resources[id].Properties, &properties)
	if err == nil {
		properties, err = s.resolve(properties)
	}
	var text []byte
	if err == nil {
		text, err = json.Marshal(properties)
	}
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("read %s of the template: %w", id, err)
	}
	return nil
}

// resolve replaces CloudFormation's functions by their values.
func (s *stack) resolve(v any) (any, error) {
	switch v := v.(type) {
	case []any:
		for i := range v {
			var err error
			if v[i], err = s.resolve(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		if v["Ref"] == "SubnetIds" {
			return []any{vpcSubnet + "a", vpcSubnet + "b"}, nil
		}
		if name, ok := v["Ref"].(string); ok {
			return s.value(name)
		}
		if parts, ok := v["Fn::GetAtt"].([]any); ok {
			return s.value(fmt.Sprintf("%s.%s", parts...))
		}
		if text, ok := v["Fn::Sub"].(string); ok {
			return s.substitute(text)
		}
		for name := range v {
			var err error
			if v[name], err = s.resolve(v[name]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// reference is a reference in a text of Fn::Sub, or with an exclamation mark a variable of IAM.
var reference = regexp.MustCompile(`\$\{(!?)([^}]+)\}`)

func (s *stack) substitute(text string) (string, error) {
	var failed error
	out := reference.ReplaceAllStringFunc(text, func(found string) string {
		m := reference.FindStringSubmatch(found)
		if m[1] != "" {
			return "${" + m[2] + "}"
		}
		value, err := s.value(m[2])
		if err != nil {
			failed = err
		}
		return value
	})
	return out, failed
}

// value returns what a reference stands for in the lab.
func (s *stack) value(reference string) (string, error) {
	p := s.partition()
	value, ok := map[string]string{
		"AWS::Partition": p.ID, "AWS::Region": s.region, "AWS::AccountId": s.account, "AWS::URLSuffix": p.DNSSuffix,
		"Tasks": strconv.Itoa(s.shared), "TaskDefinition": bastionName, "SecurityGroup.GroupId": vpcGroup,
		"Allow": "", "ImageTag": "1", // parameters; tasks get the lab's own list
		"ExecLog": "/" + bastionName + "/exec", "AuditBucket": auditBucket, "AuditBucket.Arn": "arn:" + p.ID + ":s3:::" + auditBucket,
		"AuditLog": "/" + bastionName, "Cluster": bastionName, "Key.Arn": s.key,
		"Repository.RepositoryUri": p.Endpoint(s.account+".dkr.ecr", s.region) + "/" + bastionName,
		"TaskRole.Arn":             s.role("TaskRole"), "ExecutionRole.Arn": s.role("ExecutionRole"),
	}[reference]
	if !ok {
		return "", fmt.Errorf("the lab has no value for %s", reference)
	}
	return value, nil
}

// auditBucket is the bucket of transcripts, with a name as CloudFormation makes it up.
const auditBucket = bastionName + "-auditbucket-0lab0lab0lab"

// secret is a secret of the task definition.
func (s *stack) secret(variable, from string) taskSecret {
	secret := taskSecret{variable: variable, arn: secretARN(from)}
	for _, given := range s.secrets {
		if given.ARN == secret.arn {
			secret.key = given.Key
		}
	}
	return secret
}

// role is the ARN of a role of the stack, with a name as CloudFormation makes it up.
func (s *stack) role(id string) string {
	return s.iamARN("iam", "role/"+bastionName+"-"+id+"-0LAB0LAB0LAB")
}

// rolePolicy returns the document of a role's policy.
func (s *stack) rolePolicy(id string) (json.RawMessage, error) {
	var role struct {
		Policies []struct{ PolicyDocument json.RawMessage }
	}
	if err := s.read(id, &role); err != nil {
		return nil, err
	}
	if len(role.Policies) != 1 {
		return nil, fmt.Errorf("read %s of the template: it has %d policies, want 1", id, len(role.Policies))
	}
	return role.Policies[0].PolicyDocument, nil
}

// userPolicy returns the document of the policy of people.
func (s *stack) userPolicy() (json.RawMessage, error) {
	var policy struct{ PolicyDocument json.RawMessage }
	err := s.read("UserPolicy", &policy)
	return policy.PolicyDocument, err
}
