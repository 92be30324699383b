package account

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// A deployed template tells the inputs that it was made of, and they make it again.
func TestRecord(t *testing.T) {
	for name, in := range variants {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, in)
			text, err := s.Deployable("1.2.3", "arn:aws:kms:key")
			if err != nil {
				t.Fatal(err)
			}
			if bytes.ContainsRune(text, '\n') || len(text) > 51200 {
				t.Errorf("%d bytes, or several lines: CloudFormation takes 51200", len(text))
			}
			r, ok, err := ReadRecord(text)
			if err != nil || !ok || r.Version != "1.2.3" || !reflect.DeepEqual(r.Adopted, []string{"arn:aws:kms:key"}) {
				t.Fatalf("%+v, %v, %v", r, ok, err)
			}
			again, err := newStack(t, r.Inputs).Deployable("1.2.3", r.Adopted...)
			if err != nil || !bytes.Equal(again, text) {
				t.Errorf("the inputs in the template make another one, %v", err)
			}
		})
	}
}

// A log group that was there before the stack stays when the stack's creation fails; one that the stack makes goes.
func TestAdoptedStays(t *testing.T) {
	s := newStack(t, Inputs{ExecLogs: true})
	text, err := s.Deployable("1.2.3", "/bastion", "arn:aws:kms:key")
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Resources map[string]struct{ DeletionPolicy string }
	}
	if err := json.Unmarshal(text, &template); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"AuditLog": "Retain", "ExecLog": "RetainExceptOnCreate", "Key": "RetainExceptOnCreate", "Cluster": ""} {
		if got := template.Resources[id].DeletionPolicy; got != want {
			t.Errorf("%s has the deletion policy %q, want %q", id, got, want)
		}
	}
}

func TestRecordOfOthers(t *testing.T) {
	plain, err := newStack(t, Inputs{}).CloudFormation()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "Resources:\n  A: {}", "{}", `{"Metadata": {"AWS::CloudFormation::Interface": {}}}`, string(plain)} {
		if _, ok, err := ReadRecord([]byte(text)); ok || err != nil {
			t.Errorf("%.30q has a record, %v", text, err)
		}
	}
	newer := `{"Metadata": {"Bastion": {"Version": "99.0.0", "Inputs": {"Name": "bastion", "Unheard": 1}}}}`
	if r, ok, err := ReadRecord([]byte(newer)); !ok || err == nil || r.Version != "99.0.0" || !strings.Contains(err.Error(), "99.0.0") {
		t.Errorf("%+v, %v, %v", r, ok, err)
	}
}
