package iamref

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// effects are the lab's names for what the simulator says.
var effects = map[string]iam.Effect{"Allowed": iam.Allow, "ImplicitlyDenied": iam.ImplicitDeny, "ExplicitlyDenied": iam.ExplicitDeny}

// instead are keys of tags, which have the same rules, in place of condition keys that the simulator does not know: one whose variable part
// stands behind a colon, and one of another service's name.
var instead = strings.NewReplacer("kms:EncryptionContext:", "aws:ResourceTag/context:", "kms:encryptioncontext:", "aws:ResourceTag/context:",
	"ec2:osuser", "aws:ResourceTag/osuser")

// keyPolicy is the part of the template's key policy that leaves a key to the policies of the account.
const keyPolicy = `{"Version":"2012-10-17","Statement":[` +
	`{"Effect":"Allow","Principal":{"AWS":"ACCOUNT"},"Action":"kms:*","Resource":"*"}]}`

// CheckDecisions asks the simulator about a request of each kind that a lab's policies have decided on, and returns how many it has asked.
// It is an error if the simulator decides otherwise, or does not know a condition key that the lab gives the request. Left out are
// documents that AWS owns, because the simulator takes no ARN without an account for one.
func CheckDecisions(t testing.TB, asked []awsapi.Asked) int {
	t.Helper()
	var simulations []Simulation
	var compared []awsapi.Asked
	for _, a := range asked {
		if strings.Contains(a.Resource, "::document/AWS-") {
			continue
		}
		account := strings.Split(a.Principal, ":")[4]
		s := Simulation{
			Principal: a.Principal, Action: a.Action, Resource: a.Resource, Account: account, Context: make(map[string][]string),
		}
		if strings.HasPrefix(a.Action, "kms:") {
			s.KeyPolicy = json.RawMessage(strings.Replace(keyPolicy, "ACCOUNT", account, 1))
		}
		for key, values := range a.Context {
			s.Context[instead.Replace(key)] = values
		}
		for _, p := range a.Policies {
			s.Policies = append(s.Policies, json.RawMessage(instead.Replace(string(p.Document))))
		}
		simulations, compared = append(simulations, s), append(compared, a)
	}
	for i, o := range Simulate(t, simulations) {
		a := compared[i]
		if effect, ok := effects[o.Effect]; !ok || effect != a.Effect || o.Error != "" {
			t.Errorf("%s on %s by %s with %v: %s, and the simulator says %+v", a.Action, a.Resource, a.Principal, a.Context, a.Effect, o)
		}
		for _, key := range o.Ignored {
			t.Errorf("%s on %s: such a request has no condition key %s", a.Action, a.Resource, key)
		}
	}
	return len(simulations)
}
