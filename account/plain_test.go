package account

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// The plain form has what the template has, each function of CloudFormation as a text, and no reference that leads nowhere.
func TestPlain(t *testing.T) {
	for name, in := range variants {
		t.Run(name, func(t *testing.T) {
			s, err := New(in)
			if err != nil {
				t.Fatal(err)
			}
			text, err := s.Plain()
			if err != nil {
				t.Fatal(err)
			}
			var plain struct {
				Parameters []struct{ Name string }
				Resources  []struct {
					ID, Type   string
					Keep       bool
					Properties map[string]any
				}
				Outputs []struct {
					Name  string
					Value any
				}
			}
			if err := json.Unmarshal(text, &plain); err != nil {
				t.Fatal(err)
			}
			template, err := s.CloudFormation()
			if err != nil {
				t.Fatal(err)
			}
			var cfn struct {
				Resources map[string]struct {
					Type           string
					DeletionPolicy string
					Properties     map[string]any
				}
				Outputs map[string]struct{ Value any }
			}
			if err := json.Unmarshal(template, &cfn); err != nil {
				t.Fatal(err)
			}
			known := map[string]bool{"AWS::Region": true, "AWS::AccountId": true, "AWS::Partition": true, "AWS::URLSuffix": true, "AWS::StackName": true}
			for _, p := range plain.Parameters {
				known[p.Name] = true
			}
			for _, r := range plain.Resources {
				known[r.ID] = true
				of := cfn.Resources[r.ID]
				if r.Type != of.Type || r.Keep != (of.DeletionPolicy != "") || !reflect.DeepEqual(any(r.Properties), asText(any(of.Properties))) {
					t.Errorf("%s is %+v, in the template %+v", r.ID, r, of)
				}
			}
			if len(plain.Resources) != len(cfn.Resources) || len(plain.Outputs) != len(cfn.Outputs) {
				t.Errorf("%d resources of %d, %d outputs of %d", len(plain.Resources), len(cfn.Resources), len(plain.Outputs), len(cfn.Outputs))
			}
			for _, o := range plain.Outputs {
				if !reflect.DeepEqual(o.Value, asText(cfn.Outputs[o.Name].Value)) {
					t.Errorf("output %s is %v", o.Name, o.Value)
				}
			}
			for _, m := range regexp.MustCompile(`\$\{([A-Z][A-Za-z0-9:]*)`).FindAllStringSubmatch(string(text), -1) {
				if !known[m[1]] {
					t.Errorf("%s leads nowhere", m[0])
				}
			}
		})
	}
}

// asText is a template's value with its functions as texts.
func asText(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = asText(v[i])
		}
	case map[string]any:
		if ref, ok := v["Ref"].(string); ok && len(v) == 1 {
			return "${" + ref + "}"
		}
		if get, ok := v["Fn::GetAtt"].([]any); ok {
			return "${" + get[0].(string) + "." + get[1].(string) + "}"
		}
		if sub, ok := v["Fn::Sub"].(string); ok {
			return strings.ReplaceAll(sub, "${!", "${")
		}
		for key := range v {
			v[key] = asText(v[key])
		}
	}
	return v
}
