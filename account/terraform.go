package account

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// Terraform returns the stack as a module for Terraform, with the AWS provider from version 6 on. It makes the same resources; where the
// provider divides one into several, so does the module.
func (s *Stack) Terraform() ([]byte, error) {
	w := &terraformWriter{stack: s, file: hclwrite.NewEmptyFile()}
	body := w.file.Body()
	settings := body.AppendNewBlock("terraform", nil).Body()
	settings.AppendNewBlock("required_providers", nil).Body().SetAttributeValue("aws", cty.ObjectVal(map[string]cty.Value{
		"source": cty.StringVal("hashicorp/aws"), "version": cty.StringVal(">= 6.0"),
	}))
	for _, p := range s.Parameters {
		w.variable(p)
	}
	for _, name := range []string{"aws_caller_identity", "aws_partition", "aws_region"} {
		body.AppendNewline()
		body.AppendNewBlock("data", []string{name, "current"})
	}
	for _, r := range s.Resources {
		kind, ok := terraformKinds[r.Type]
		if !ok {
			return nil, fmt.Errorf("terraform: %s: no resource type for %s", r.ID, r.Type)
		}
		own := w.resource(kind.name, r.ID)
		if kind.prefix != "" {
			name := s.Inputs.Name + "-" + strings.ReplaceAll(snake(r.ID), "_", "-")
			if strings.HasSuffix(kind.prefix, "_prefix") {
				name += "-"
			}
			own.SetAttributeValue(kind.prefix, cty.StringVal(name))
		}
		w.properties(own, kind, r.Properties)
		if r.Type == "AWS::AutoScaling::AutoScalingGroup" {
			own.SetAttributeRaw("enabled_metrics", w.expression(groupMetrics))
		}
		switch {
		case !r.Keep:
		case kind.keep == "prevent_destroy":
			own.AppendNewBlock("lifecycle", nil).Body().SetAttributeValue(kind.keep, cty.True)
		case kind.keep != "":
			own.SetAttributeValue(kind.keep, cty.True)
		}
		w.parts(r)
	}
	for _, o := range s.Outputs {
		body.AppendNewline()
		output := body.AppendNewBlock("output", []string{snake(o.Name)}).Body()
		output.SetAttributeValue("description", cty.StringVal(o.Description))
		output.SetAttributeRaw("value", w.expression(o.Value))
	}
	return hclwrite.Format(w.file.Bytes()), nil
}

type terraformWriter struct {
	stack *Stack
	file  *hclwrite.File
}

func (w *terraformWriter) variable(p Parameter) {
	w.file.Body().AppendNewline()
	body := w.file.Body().AppendNewBlock("variable", []string{snake(p.Name)}).Body()
	body.SetAttributeValue("description", cty.StringVal(p.Description))
	isList := strings.Contains(p.Type, "List")
	kind := "string"
	switch {
	case isList:
		kind = "list(string)"
	case p.Type == "Number":
		kind = "number"
	}
	body.SetAttributeRaw("type", raw(kind))
	switch {
	case p.Default == "":
	case isList:
		var values []cty.Value
		for v := range strings.SplitSeq(p.Default, ",") {
			values = append(values, cty.StringVal(v))
		}
		body.SetAttributeValue("default", cty.ListVal(values))
	case p.Type == "Number":
		body.SetAttributeValue("default", cty.MustParseNumberVal(p.Default))
	default:
		body.SetAttributeValue("default", cty.StringVal(p.Default))
	}
}

// resource begins a resource of the module.
func (w *terraformWriter) resource(kind, id string) *hclwrite.Body {
	w.file.Body().AppendNewline()
	return w.file.Body().AppendNewBlock("resource", []string{kind, snake(id)}).Body()
}

// properties writes a resource's properties, but those that kind leaves to other resources.
func (w *terraformWriter) properties(body *hclwrite.Body, kind terraformKind, properties Object) {
	for _, m := range properties {
		name, ok := kind.names[m.Name]
		if !ok {
			name = snake(m.Name)
		}
		switch {
		case name == "":
		case name == ".":
			w.properties(body, kind, only(m.Value))
		case m.Name == "Tags" && name == "tags":
			w.pairs(body, name, "Key", m.Value.(List))
		case slices.Contains(kind.documents, m.Name):
			body.SetAttributeRaw(name, hclwrite.TokensForFunctionCall("jsonencode", w.expression(document(m.Value))))
		case m.Name == kind.single:
			body.SetAttributeRaw(name, w.expression(first(m.Value.(List))))
		case slices.Contains(kind.switches, m.Name):
			body.SetAttributeValue(name, cty.BoolVal(m.Value == "ENABLED"))
		case kind.mapped[m.Name] != "":
			w.pairs(body, name, kind.mapped[m.Name], m.Value.(List))
		default:
			w.member(body, kind, name, m.Value)
		}
	}
}

// document is a property that is JSON, as the service's own API has it: a list is one of ECS's, whose names begin in lower case.
func document(v any) any {
	if l, ok := v.(List); ok {
		return apiNames(l)
	}
	return v
}

// apiNames are the names of CloudFormation's properties as ECS's API has them, which begin in lower case. Options of a log driver have
// names of their own.
func apiNames(v any) any {
	switch v := v.(type) {
	case Object:
		out := make(Object, len(v))
		for i, m := range v {
			out[i] = Member{strings.ToLower(m.Name[:1]) + m.Name[1:], apiNames(m.Value)}
		}
		return out
	case List:
		out := make(List, len(v))
		for i, e := range v {
			out[i] = apiNames(e)
		}
		return out
	}
	return v
}

// member writes a property as an attribute, or as a block for each object.
func (w *terraformWriter) member(body *hclwrite.Body, kind terraformKind, name string, value any) {
	objects, isList := value.(List)
	if o, ok := value.(Object); ok {
		objects, isList = List{o}, true
	}
	if _, ofObjects := first(objects).(Object); !isList || !ofObjects {
		body.SetAttributeRaw(name, w.expression(value))
		return
	}
	for _, o := range objects {
		w.properties(body.AppendNewBlock(name, nil).Body(), kind, o.(Object))
	}
}

// pairs writes a list of objects with a key and a Value as a map.
func (w *terraformWriter) pairs(body *hclwrite.Body, name, key string, pairs List) {
	var members []hclwrite.ObjectAttrTokens
	for _, t := range pairs {
		members = append(members, hclwrite.ObjectAttrTokens{
			Name: hclwrite.TokensForValue(cty.StringVal(t.(Object).get(key).(string))), Value: w.expression(t.(Object).get("Value")),
		})
	}
	body.SetAttributeRaw(name, hclwrite.TokensForObject(members))
}

// only is a property's object, also as the one element of a list.
func only(v any) Object {
	if l, isList := v.(List); isList {
		v = first(l)
	}
	return v.(Object)
}

// expression is a value in HCL.
func (w *terraformWriter) expression(v any) hclwrite.Tokens {
	switch v := v.(type) {
	case string:
		return hclwrite.TokensForValue(cty.StringVal(v))
	case bool:
		return hclwrite.TokensForValue(cty.BoolVal(v))
	case int:
		return hclwrite.TokensForValue(cty.NumberIntVal(int64(v)))
	case nil:
		return hclwrite.TokensForValue(cty.NullVal(cty.DynamicPseudoType))
	case List:
		var elements []hclwrite.Tokens
		for _, e := range v {
			elements = append(elements, w.expression(e))
		}
		return hclwrite.TokensForTuple(elements)
	case Object:
		var members []hclwrite.ObjectAttrTokens
		for _, m := range v {
			members = append(members, hclwrite.ObjectAttrTokens{
				Name: hclwrite.TokensForValue(cty.StringVal(m.Name)), Value: w.expression(m.Value),
			})
		}
		return hclwrite.TokensForObject(members)
	case Text:
		return w.template(v)
	}
	return hclwrite.TokensForTraversal(w.traversal(v))
}

// template is a text as a quoted template.
func (w *terraformWriter) template(t Text) hclwrite.Tokens {
	tokens := hclwrite.Tokens{{Type: hclsyntax.TokenOQuote, Bytes: []byte(`"`)}}
	for _, part := range t.flat() {
		if text, ok := part.(string); ok {
			quoted := hclwrite.TokensForValue(cty.StringVal(text))
			tokens = append(tokens, quoted[1:len(quoted)-1]...)
			continue
		}
		tokens = append(tokens, &hclwrite.Token{Type: hclsyntax.TokenTemplateInterp, Bytes: []byte("${")})
		tokens = append(tokens, w.expression(part)...)
		tokens = append(tokens, &hclwrite.Token{Type: hclsyntax.TokenTemplateSeqEnd, Bytes: []byte("}")})
	}
	return append(tokens, &hclwrite.Token{Type: hclsyntax.TokenCQuote, Bytes: []byte(`"`)})
}

// traversal is what a reference names in the module.
func (w *terraformWriter) traversal(v any) hcl.Traversal {
	path := func(root string, names ...string) hcl.Traversal {
		t := hcl.Traversal{hcl.TraverseRoot{Name: root}}
		for _, name := range names {
			t = append(t, hcl.TraverseAttr{Name: name})
		}
		return t
	}
	switch v := v.(type) {
	case Pseudo:
		p := terraformPseudo[v]
		return path("data", p[0], "current", p[1])
	case Ref:
		r, made := w.stack.Resource(string(v))
		if !made {
			return path("var", snake(string(v)))
		}
		kind := terraformKinds[r.Type]
		return path(kind.name, snake(r.ID), kind.ref)
	case Attr:
		r, _ := w.stack.Resource(v.ID)
		kind := terraformKinds[r.Type]
		name := kind.attrs[v.Name]
		if name == "" {
			name = snake(v.Name)
		}
		return path(kind.name, snake(r.ID), name)
	}
	panic(fmt.Sprintf("account: no expression for %T", v))
}

// first is the list's first element, nil if it has none.
func first(l List) any {
	if len(l) == 0 {
		return nil
	}
	return l[0]
}

// snake is a name of CloudFormation's as Terraform writes it: KmsKeyId becomes kms_key_id.
func snake(name string) string {
	var b strings.Builder
	letters := []rune(name)
	for i, r := range letters {
		ends := i > 0 && (unicode.IsLower(letters[i-1]) || unicode.IsDigit(letters[i-1]))
		begins := i > 0 && i+1 < len(letters) && unicode.IsUpper(letters[i-1]) && unicode.IsLower(letters[i+1])
		if unicode.IsUpper(r) && (ends || begins) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
