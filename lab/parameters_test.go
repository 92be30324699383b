//go:build unix

package lab_test

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/lab"
)

// The AWS CLI writes, reads and removes parameters, of both types. One's people may read the shared configuration, and no other parameter.
func TestParameters(t *testing.T) {
	l := start(t, quick(t))
	admin := newCLI(t, l, newPerson(t, l, "admin", lab.IdentityConfig{Allow: []string{"*"}}).env)
	user := newCLI(t, l, newPerson(t, l, "user", lab.IdentityConfig{}).env)
	const name = "/bastion/config"
	for i, kind := range []string{"String", "SecureString"} {
		out := admin.run(t, "ssm", "put-parameter", "--name", name+kind, "--type", kind, "--value", "a: 1")
		if at(out, "Version") != 1.0 {
			t.Errorf("%v", out)
		}
		if text := admin.fails(t, "ssm", "put-parameter", "--name", name+kind, "--type", kind, "--value", "a: 2"); !strings.Contains(text, "ParameterAlreadyExists") {
			t.Error(text)
		}
		out = admin.run(t, "ssm", "put-parameter", "--name", name+kind, "--value", "a: 2", "--overwrite")
		if at(out, "Version") != 2.0 {
			t.Errorf("%v", out)
		}
		other := []string{"SecureString", "String"}[i]
		if text := admin.fails(t, "ssm", "put-parameter", "--name", name+kind, "--type", other, "--value", "x", "--overwrite"); !strings.Contains(text, "HierarchyTypeMismatch") {
			t.Error(text)
		}
		out = admin.run(t, "ssm", "get-parameter", "--name", name+kind, "--with-decryption")
		if p := at(out, "Parameter"); at(p, "Value") != "a: 2" || at(p, "Type") != kind || !strings.HasSuffix(at(p, "ARN").(string), ":parameter"+name+kind) {
			t.Errorf("%v", out)
		}
		out = admin.run(t, "ssm", "get-parameter", "--name", name+kind)
		if hidden := at(out, "Parameter", "Value") != "a: 2"; hidden != (kind == "SecureString") {
			t.Errorf("without decryption: %v", out)
		}
		if text := user.fails(t, "ssm", "get-parameter", "--name", name+kind); !strings.Contains(text, "AccessDenied") {
			t.Error(text)
		}
	}
	if text := user.fails(t, "ssm", "get-parameter", "--name", name); !strings.Contains(text, "ParameterNotFound") {
		t.Error(text)
	}
	admin.run(t, "ssm", "put-parameter", "--name", name, "--type", "String", "--value", "b: 1")
	if out := user.run(t, "ssm", "get-parameter", "--name", name); at(out, "Parameter", "Value") != "b: 1" {
		t.Errorf("%v", out)
	}
	if text := user.fails(t, "ssm", "put-parameter", "--name", name, "--value", "x", "--overwrite"); !strings.Contains(text, "AccessDenied") {
		t.Error(text)
	}
	if text := admin.fails(t, "ssm", "put-parameter", "--name", "/long", "--type", "String", "--value", strings.Repeat("x", 4097)); !strings.Contains(text, "ValidationException") {
		t.Error(text)
	}
	if out, err := admin.command(t, "ssm", "delete-parameter", "--name", name).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if text := admin.fails(t, "ssm", "delete-parameter", "--name", name); !strings.Contains(text, "ParameterNotFound") {
		t.Error(text)
	}
}
