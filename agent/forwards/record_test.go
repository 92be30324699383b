package forwards

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/agent/api"
)

// The file has the environment beside the settings, where an agent that does not know it ignores it, and it comes back among them.
func TestRecordInTheFile(t *testing.T) {
	settings := map[string]string{"environment": "prod", "profile": "p"}
	r := Record{Request: api.ForwardRequest{Name: "orders"}, Scope: api.Scope{Settings: settings}}
	saved := r.ForFile()
	text, err := json.Marshal(saved)
	if err != nil || strings.Count(string(text), `"environment"`) != 1 || saved.Scope.Settings["environment"] != "" || saved.Environment != "prod" {
		t.Errorf("%s, %v", text, err)
	}
	if settings["environment"] != "prod" {
		t.Error("the record itself has changed")
	}
	var back Record
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if back.FromFile(); cmp.Diff(r, back) != "" {
		t.Error(cmp.Diff(r, back))
	}
	if got := back.show(); got.Environment != "prod" || got.Profile != "p" {
		t.Errorf("%+v", got)
	}
	plain := Record{Scope: api.Scope{Settings: map[string]string{"profile": "p"}}}
	if saved = plain.ForFile(); cmp.Diff(plain, saved) != "" {
		t.Error(cmp.Diff(plain, saved))
	}
	if saved.FromFile(); cmp.Diff(plain, saved) != "" {
		t.Error(cmp.Diff(plain, saved))
	}
}
