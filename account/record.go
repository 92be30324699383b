package account

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// recordKey is the member of a template's metadata that has its Record.
const recordKey = "Bastion"

// Record is what a deployed template says of itself, so that the stack alone tells how it was made.
type Record struct {
	Version string // of the program that made the template
	Inputs  Inputs
	// Adopted is what an earlier stack of the name has left and this one has taken over: names of log groups, which are its own now, and
	// the ARN of a KMS key, which it uses without having it.
	Adopted []string `json:",omitempty"`
}

// deletion is the deletion policy of a resource that is kept. A creation that failed leaves nothing, because its names would be taken for
// the next. But it must not take along what was there before it.
func (r *Record) deletion(kept Resource) string {
	name, isText := kept.Properties.get("LogGroupName").(string)
	if r != nil && isText && slices.Contains(r.Adopted, name) {
		return "Retain"
	}
	return "RetainExceptOnCreate"
}

// Deployable returns the template as it is sent to CloudFormation: in one line, because CloudFormation limits its size, and with the
// record of its inputs in its metadata.
func (s *Stack) Deployable(version string, adopted ...string) ([]byte, error) {
	return marshal(s.template(&Record{Version: version, Inputs: s.Inputs, Adopted: adopted}))
}

// ReadRecord returns the record in a template that Deployable has made. ok is false for any other template. The error is that of a record
// which has more in it than this program knows: a newer one has made it.
func ReadRecord(template []byte) (r Record, ok bool, err error) {
	var found struct{ Metadata map[string]json.RawMessage }
	_ = json.Unmarshal(template, &found) // what is no JSON, Deployable has not made
	if len(found.Metadata[recordKey]) == 0 {
		return Record{}, false, nil
	}
	d := json.NewDecoder(bytes.NewReader(found.Metadata[recordKey]))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		var made struct{ Version string }
		_ = json.Unmarshal(found.Metadata[recordKey], &made)
		return Record{Version: made.Version}, true, fmt.Errorf("read the inputs in the template of bastion %s: %w", made.Version, err)
	}
	return r, true, nil
}
