package account

import (
	"fmt"
	"strings"
)

// CloudFormation returns the stack as a template in JSON.
func (s *Stack) CloudFormation() ([]byte, error) {
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
			// A creation that failed leaves nothing: its names would be taken for the next.
			o = append(o, Member{"DeletionPolicy", "RetainExceptOnCreate"}, Member{"UpdateReplacePolicy", "Retain"})
		}
		o = append(o, Member{"Properties", resolve(r.Properties, intrinsic)})
		resources = append(resources, Member{r.ID, o})
	}
	for _, o := range s.Outputs {
		outputs = append(outputs, Member{o.Name, Object{{"Description", o.Description}, {"Value", resolve(o.Value, intrinsic)}}})
	}
	return indented(Object{
		{"AWSTemplateFormatVersion", "2010-09-09"},
		{"Description", s.Inputs.Name + ": bastions for private databases, without an open port (SSH over SSM, on Fargate)"},
		{"Parameters", parameters},
		{"Resources", resources},
		{"Outputs", outputs},
	})
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
	var b strings.Builder
	plain := true
	for _, part := range t.flat() {
		switch part := part.(type) {
		case string:
			b.WriteString(strings.ReplaceAll(part, "${", "${!")) // a variable of IAM, not of the template
			continue
		case Ref:
			b.WriteString("${" + string(part) + "}")
		case Pseudo:
			b.WriteString("${" + string(part) + "}")
		case Attr:
			b.WriteString("${" + part.ID + "." + part.Name + "}")
		default:
			panic(fmt.Sprintf("account: %T in a text", part))
		}
		plain = false
	}
	if plain {
		return strings.ReplaceAll(b.String(), "${!", "${")
	}
	return Object{{"Fn::Sub", b.String()}}
}
