package main

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/lab"
)

// The key of ECS Exec needs two permissions of two owners: the user's kms:GenerateDataKey and the task role's kms:Decrypt. A message
// names the one that is missing, the key, and whose it is.
func TestLabExecKey(t *testing.T) {
	const key = "arn:aws:kms:eu-central-1:000000000000:key/"
	const denied = 5
	for name, tt := range map[string]struct {
		role, user []string // denied
		code       int
		says, not  string
	}{
		"both may":       {},
		"a user may not": {nil, []string{"kms:*"}, denied, "use KMS key " + key, "kms:Decrypt"},
		"a role may not": {[]string{"kms:Decrypt"}, nil, denied, "kms:Decrypt on " + key, "ask for the IAM permission kms:GenerateDataKey"},
		"neither may":    {[]string{"kms:Decrypt"}, []string{"kms:GenerateDataKey"}, denied, "use KMS key " + key, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := startLab(t, func(c *lab.Config) { c.KMS, c.TaskRoleDeny = true, tt.role })
			env, err := e.AddIdentity("ada", lab.IdentityConfig{Deny: tt.user})
			if err != nil {
				t.Fatal(err)
			}
			r := e.run(env, "up")
			if r.code != tt.code || !strings.Contains(r.stderr, tt.says) || tt.not != "" && strings.Contains(r.stderr, tt.not) {
				t.Errorf("exit code %d:\n%s", r.code, r.stderr)
			}
			if _, hint, _ := strings.Cut(r.stderr, "hint: "); tt.user != nil && !strings.Contains(hint, "kms:GenerateDataKey") {
				t.Errorf("the hint does not name the action:\n%s", r.stderr)
			}
			if tt.role != nil && tt.user == nil && !strings.Contains(r.stderr, "task role") {
				t.Errorf("it does not say that the task role lacks it:\n%s", r.stderr)
			}
		})
	}
}
