package account

import (
	"fmt"
	"strings"
)

// CloudFormation returns the stack as a template in JSON.
func (s *Stack) CloudFormation() ([]byte, error) { return indented(s.template(nil)) }

// template is the stack as a template, with a record in its metadata if there is one.
func (s *Stack) template(record *Record) Object {
	var parameters, resources, outputs Object
	for _, p := range s.Parameters {
		o := Object{{"Type", p.Type}, {"Description", p.Description}}
		if p.Default != "" {
			o = append(o, Member{"Default", p.Default})
		}
		parameters = append(parameters, Member{p.Name, o})
	}
	for _, r := range s.Resources {
		o := Object{{"Type", r.Type}}
		if r.Keep {
			o = append(o, Member{"DeletionPolicy", record.deletion(r)}, Member{"UpdateReplacePolicy", "Retain"})
		}
		o = append(o, Member{"Properties", resolve(r.Properties, intrinsic)})
		resources = append(resources, Member{r.ID, o})
	}
	for _, o := range s.Outputs {
		outputs = append(outputs, Member{o.Name, Object{{"Description", o.Description}, {"Value", resolve(o.Value, intrinsic)}}})
	}
	on := "on Fargate"
	if s.classic {
		on = "on EC2"
	}
	template := Object{
		{"AWSTemplateFormatVersion", "2010-09-09"},
		{"Description", s.Inputs.Name + ": bastions for private databases, without an open port (SSH over SSM, " + on + ")"},
	}
	if record != nil {
		template = append(template, Member{"Metadata", Object{{recordKey, *record}}})
	}
	return append(template, Member{"Parameters", parameters}, Member{"Resources", resources}, Member{"Outputs", outputs})
}

// intrinsic is a reference as a function of CloudFormation.
func intrinsic(v any) any {
	switch v := v.(type) {
	case Ref:
		return Object{{"Ref", string(v)}}
	case Pseudo:
		return Object{{"Ref", string(v)}}
	case Attr:
		return Object{{"Fn::GetAtt", words(v.ID, v.Name)}}
	case Text:
		return substituted(v)
	}
	panic(fmt.Sprintf("account: no intrinsic function for %T", v))
}

// substituted is a text as Fn::Sub, or as a string if nothing in it is a reference.
func substituted(t Text) any {
	parts := t.flat()
	if len(parts) == 1 {
		if text, ok := parts[0].(string); ok {
			return text
		}
	}
	for i, part := range parts {
		if text, ok := part.(string); ok {
			parts[i] = strings.ReplaceAll(text, "${", "${!") // a variable of IAM, not of the template
		}
	}
	return Object{{"Fn::Sub", parts.join(func(v any) string {
		if a, ok := v.(Attr); ok {
			return "${" + a.ID + "." + a.Name + "}"
		}
		return fmt.Sprintf("${%s}", v) // a Ref or a Pseudo
	})}}
}
