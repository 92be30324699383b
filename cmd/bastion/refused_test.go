package main

import (
	"os"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/invocation"
)

// The operators' commands refuse what they cannot mean with exit code 2, what to do next, and before any call of AWS: there are no
// credentials here, of which a call would tell.
func TestOperatorsCommandsRefuse(t *testing.T) {
	for _, kv := range append(offline(t.TempDir()), "AWS_REGION=eu-central-1", "BASTION_CONFIG="+os.DevNull) {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	for line, want := range map[string]string{
		"audit --since x":                                          "no time span",
		"audit --from 2026-99-01":                                  "no time",
		"audit --from 2026-10-02 --to 2026-10-01":                  "is empty",
		"audit --from 2999-01-01":                                  "is empty",
		"audit --since 1h --from 2026-10-01":                       "both say",
		"cost --month 2026-13":                                     "no month",
		"cost --month 2999-01":                                     "no month",
		"cost --billed":                                            "is for a month",
		"cost --by x":                                              "want owner",
		"cost --month 2026-10 --by tag:team":                       "has no tags",
		"destroy --audit perhaps":                                  "neither keep nor delete",
		"destroy --name X":                                         `name "X"`,
		"gc --older-than 0s":                                       "no time span",
		"gc --older-than soon":                                     "no time span",
		"iam-policy nobody --account 111122223333":                 "unknown policy",
		"iam-policy user --account 1":                              "want 12 digits and a region",
		"iam-policy user --account 111122223333 --region z":        "want 12 digits and a region",
		"iam-policy user --boundary x":                             "want the ARN of a policy",
		"iam-policy roles --class read --people write=analysts":    `no class "write"`,
		"iam-policy roles --people role/analysts":                  "want the name of a role",
		"iam-policy user --deployed --people analysts":             "takes the place of all options",
		"iam-policy user --deployed --account 111122223333":        "takes the place of all options",
		"plan --name x":                                            `name "x"`,
		"plan --bastiond amd64=/nowhere":                           "no such file",
		"upgrade --image-tag .x":                                   "no tag of an image",
		"upgrade --bastiond riscv=/nowhere":                        "riscv",
		"init --people":                                            "needs a value",
		"init --emit cfn --offline --people x=":                    `no class "x"`,
		"init --emit cfn --offline --people AWSReservedSSO_A_0123": "none of IAM Identity Center's",
	} {
		var stdout, stderr syncBuilder
		code := run(t.Context(), append([]string{"bastion"}, strings.Fields(line)...), invocation.Stdio{In: os.Stdin, Out: &stdout, Err: &stderr})
		if code != 2 || !strings.Contains(stderr.String(), want) || !strings.Contains(stderr.String(), "\n  hint: ") || stdout.String() != "" {
			t.Errorf("%s: exit code %d, want 2 with %q and a hint\n%s%s", line, code, want, &stderr, &stdout)
		}
	}
}
