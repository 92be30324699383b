package deploy

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account"
)

// The policy of whoever deploys the stack allows the calls of this package, and no others of CloudFormation's, of logs and of keys.
func TestPolicyHasTheCalls(t *testing.T) {
	services := map[string]string{"cloudformation": "cloudformation", "ecs": "ecs", "cloudwatchlogs": "logs", "kms": "kms"}
	var calls []string
	for field := range reflect.TypeFor[Clients]().Fields() {
		if field.Type.Kind() != reflect.Func {
			continue
		}
		options := field.Type.In(2).Elem().In(0).Elem() // of func(context.Context, *Input, ...func(*Options))
		service := options.PkgPath()[strings.LastIndexByte(options.PkgPath(), '/')+1:]
		calls = append(calls, services[service]+":"+field.Name)
	}
	documents, err := newStack(t, account.Inputs{}).Documents(account.Place{Partition: "aws", Region: "eu-central-1", Account: "000000000000"})
	if err != nil {
		t.Fatal(err)
	}
	var allowed []string
	for _, d := range documents {
		if d.Name != "init" {
			continue
		}
		var policy struct{ Statement []struct{ Action any } }
		if err := json.Unmarshal(d.JSON, &policy); err != nil {
			t.Fatal(err)
		}
		for _, s := range policy.Statement {
			switch action := s.Action.(type) {
			case string:
				allowed = append(allowed, action)
			case []any:
				for _, one := range action {
					allowed = append(allowed, one.(string))
				}
			}
		}
	}
	for _, call := range calls {
		if !slices.Contains(allowed, call) {
			t.Errorf("the policy does not allow %s", call)
		}
	}
	for _, action := range allowed {
		service, _, _ := strings.Cut(action, ":")
		if (service == "cloudformation" || service == "logs" || service == "kms" || service == "ecs") && !slices.Contains(calls, action) {
			t.Errorf("the policy allows %s, which nothing calls", action)
		}
	}
}
