package account

import "fmt"

// Plain returns the stack as JSON for programs that know no template: parameters, resources with CloudFormation's types and properties, and
// outputs. A reference is a text: "${VpcId}" for a parameter, a resource or a pseudo parameter, "${Key.Arn}" for an attribute of a
// resource. Variables of IAM, such as "${aws:userid}", stay: their first letter is small, and that of every reference is not.
func (s *Stack) Plain() ([]byte, error) {
	var parameters, resources, outputs List
	for _, p := range s.Parameters {
		parameters = append(parameters, Object{
			{"name", p.Name}, {"type", p.Type}, {"description", p.Description}, {"default", p.Default},
		})
	}
	for _, r := range s.Resources {
		resources = append(resources, Object{
			{"id", r.ID}, {"type", r.Type}, {"keep", r.Keep}, {"properties", resolve(r.Properties, plainReference)},
		})
	}
	for _, o := range s.Outputs {
		outputs = append(outputs, Object{{"name", o.Name}, {"description", o.Description}, {"value", resolve(o.Value, plainReference)}})
	}
	return indented(Object{{"parameters", parameters}, {"resources", resources}, {"outputs", outputs}})
}

// plainReference is a reference as a text.
func plainReference(v any) any {
	switch v := v.(type) {
	case Ref, Pseudo:
		return fmt.Sprintf("${%s}", v)
	case Attr:
		return "${" + v.ID + "." + v.Name + "}"
	case Text:
		return v.join(func(v any) string { return plainReference(v).(string) })
	}
	panic(fmt.Sprintf("account: no text for %T", v))
}
