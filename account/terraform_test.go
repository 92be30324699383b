package account

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// module is a module that HashiCorp's own parser has read.
type module struct {
	t        *testing.T
	blocks   hclsyntax.Blocks
	compared map[*hclsyntax.Attribute]bool
}

func readModule(t *testing.T, text []byte) *module {
	t.Helper()
	file, faults := hclparse.NewParser().ParseHCL(text, "main.tf")
	if faults.HasErrors() {
		t.Fatalf("%v\n%s", faults, text)
	}
	return &module{t: t, blocks: file.Body.(*hclsyntax.Body).Blocks, compared: make(map[*hclsyntax.Attribute]bool)}
}

// resource returns the body of a resource, nil if there is none.
func (m *module) resource(kind, id string) *hclsyntax.Body {
	for _, b := range m.blocks {
		if b.Type == "resource" && slices.Equal(b.Labels, []string{kind, id}) {
			return b.Body
		}
	}
	return nil
}

// value is an expression's value, in which each reference is its own text, but for those that are known. jsonencode leaves its argument as
// it is.
func (m *module) value(e hcl.Expression) any {
	m.t.Helper()
	text, err := stdlib.JSONEncode(m.evaluate(e, nil))
	if err != nil {
		m.t.Fatal(err)
	}
	return plain(m.t, json.RawMessage(text.AsString()))
}

func (m *module) evaluate(e hcl.Expression, known map[string]cty.Value) cty.Value {
	m.t.Helper()
	variables := make(map[string]cty.Value)
	for _, traversal := range e.Variables() {
		path := names(traversal)
		value := cty.StringVal("<" + strings.Join(path, ".") + ">")
		for n := range path {
			if v, ok := known[strings.Join(path[:n+1], ".")]; ok {
				path, value = path[:n+1], v
				break
			}
		}
		set(variables, path, value)
	}
	asItIs := function.New(&function.Spec{
		Params: []function.Parameter{{Name: "v", Type: cty.DynamicPseudoType}},
		Type:   func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
		Impl:   func(args []cty.Value, _ cty.Type) (cty.Value, error) { return args[0], nil },
	})
	functions := map[string]function.Function{"jsonencode": asItIs, "coalesce": stdlib.CoalesceFunc}
	v, faults := e.Value(&hcl.EvalContext{Variables: variables, Functions: functions})
	if faults.HasErrors() {
		m.t.Fatal(faults)
	}
	return v
}

// egressType is the type of the variable egress, whose optional members are null.
var egressType = cty.Object(map[string]cty.Type{"port": cty.Number, "cidr": cty.String, "group": cty.String, "description": cty.String})

// each are the values of a body's attributes but one for each element of its for_each: that of local.egress, with a value of the variable.
// An attribute that is null is as good as none.
func (m *module) each(body *hclsyntax.Body, but string, egress cty.Value) (all [][]string) {
	m.t.Helper()
	if got := m.value(body.Attributes["for_each"].Expr); got != "<local.egress>" {
		m.t.Fatalf("for_each is %v", got)
	}
	var locals hcl.Expression
	for _, b := range m.blocks {
		if b.Type == "locals" {
			locals = b.Body.Attributes["egress"].Expr
		}
	}
	elements := m.evaluate(locals, map[string]cty.Value{"var.egress": egress}).AsValueMap()
	for _, key := range slices.Sorted(maps.Keys(elements)) {
		var values []string
		known := map[string]cty.Value{"each.key": cty.StringVal(key), "each.value": elements[key]}
		for name, a := range body.Attributes {
			if v := m.evaluate(a.Expr, known); name != "for_each" && name != but && !v.IsNull() {
				text, err := stdlib.JSONEncode(v)
				if err != nil {
					m.t.Fatal(err)
				}
				values = append(values, leaves(plain(m.t, json.RawMessage(text.AsString())))...)
			}
		}
		all = append(all, values)
	}
	return all
}

// set puts a value at the end of a path of objects.
func set(into map[string]cty.Value, path []string, v cty.Value) {
	if len(path) == 1 {
		into[path[0]] = v
		return
	}
	inner := make(map[string]cty.Value)
	if old, ok := into[path[0]]; ok {
		inner = old.AsValueMap()
	}
	set(inner, path[1:], v)
	into[path[0]] = cty.ObjectVal(inner)
}

// plain is v as JSON knows it.
func plain(t *testing.T, v any) (out any) {
	t.Helper()
	text, err := marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The module has each resource of the template, and each of their properties with the value that the template has, and no other but for
// names and for what is kept.
func TestTerraformEqualsTheTemplate(t *testing.T) {
	for name, s := range allStacks(t) {
		t.Run(name, func(t *testing.T) {
			text, err := s.Terraform()
			if err != nil {
				t.Fatal(err)
			}
			if formatted := hclwrite.Format(text); !bytes.Equal(formatted, text) {
				t.Error("terraform fmt would change it")
			}
			m := readModule(t, text)
			w := &terraformWriter{stack: s}
			compared := 0
			for _, r := range s.Resources {
				kind := terraformKinds[r.Type]
				body := m.resource(kind.name, snake(r.ID))
				if body == nil {
					t.Errorf("%s: no %s", r.ID, kind.name)
					continue
				}
				compared += m.compare(r.ID, body, kind, resolve(r.Properties, w.reading).(Object))
				for _, surplus := range m.surplus(body, kind) {
					t.Errorf("%s: the template has no %s", r.ID, surplus)
				}
			}
			if compared < 3*len(s.Resources) {
				t.Errorf("only %d properties of %d resources", compared, len(s.Resources))
			}
		})
	}
}

// reading is a reference as module.value reads it.
func (w *terraformWriter) reading(v any) any { return w.read(v) }

func (w *terraformWriter) read(v any) string {
	if text, ok := v.(Text); ok {
		return text.join(w.read)
	}
	return "<" + strings.Join(names(w.traversal(v)), ".") + ">"
}

// names are a traversal's.
func names(t hcl.Traversal) (names []string) {
	for _, step := range t {
		switch step := step.(type) {
		case hcl.TraverseRoot:
			names = append(names, step.Name)
		case hcl.TraverseAttr:
			names = append(names, step.Name)
		}
	}
	return names
}

// compare compares a resource's properties with a body, blocks within too, and returns how many it has compared.
func (m *module) compare(where string, body *hclsyntax.Body, kind terraformKind, properties Object) (compared int) {
	m.t.Helper()
	for _, p := range properties {
		name, given := kind.names[p.Name]
		if !given {
			name = snake(p.Name)
		}
		where := where + "." + p.Name
		switch name {
		case "":
			continue
		case ".":
			compared += m.compare(where, body, kind, only(p.Value))
			continue
		}
		var blocks []*hclsyntax.Block
		for _, b := range body.Blocks {
			if b.Type == name {
				blocks = append(blocks, b)
			}
		}
		if len(blocks) > 0 {
			objects, isList := p.Value.(List)
			if !isList {
				objects = List{p.Value}
			}
			if len(objects) != len(blocks) {
				m.t.Errorf("%s: %d blocks, want %d", where, len(blocks), len(objects))
				continue
			}
			for i, o := range objects {
				compared += m.compare(where, blocks[i].Body, kind, o.(Object))
			}
			continue
		}
		attribute := body.Attributes[name]
		if attribute == nil {
			m.t.Errorf("%s: no attribute %s", where, name)
			continue
		}
		compared++
		m.compared[attribute] = true
		if got, want := m.value(attribute.Expr), plain(m.t, m.wanted(kind, p)); !reflect.DeepEqual(got, want) {
			m.t.Errorf("%s: %v, want %v", where, got, want)
		}
	}
	return compared
}

// surplus are the names of attributes that compare has not seen, but for those that the provider takes in place of CloudFormation's ways.
func (m *module) surplus(body *hclsyntax.Body, kind terraformKind) (names []string) {
	for name, a := range body.Attributes {
		if !m.compared[a] && !slices.Contains([]string{kind.prefix, kind.keep, "enabled_metrics"}, name) {
			names = append(names, name)
		}
	}
	for _, b := range body.Blocks {
		names = append(names, m.surplus(b.Body, kind)...)
	}
	return names
}

// wanted is a property's value as the provider takes it.
func (m *module) wanted(kind terraformKind, p Member) any {
	switch {
	case p.Name == "Tags":
		return pairs("Key", p.Value.(List))
	case kind.mapped[p.Name] != "":
		return pairs(kind.mapped[p.Name], p.Value.(List))
	case slices.Contains(kind.switches, p.Name):
		return p.Value == "ENABLED"
	case p.Name == kind.single:
		return p.Value.(List)[0]
	case slices.Contains(kind.documents, p.Name):
		return document(p.Value)
	}
	return p.Value
}

// pairs is a list of keys and values as a map.
func pairs(key string, list List) map[string]any {
	all := make(map[string]any)
	for _, o := range list {
		all[o.(Object).get(key).(string)] = o.(Object).get("Value")
	}
	return all
}

// partKinds are the provider's resources that hold properties which kinds leave out, by CloudFormation's type, each with the attribute by
// which it names the resource that it is a part of.
var partKinds = map[string]map[string]string{
	"AWS::S3::Bucket": {
		"aws_s3_bucket_server_side_encryption_configuration": "bucket", "aws_s3_bucket_lifecycle_configuration": "bucket",
		"aws_s3_bucket_ownership_controls": "bucket", "aws_s3_bucket_public_access_block": "bucket", "aws_s3_bucket_versioning": "bucket",
	},
	"AWS::ECR::Repository":    {"aws_ecr_lifecycle_policy": "repository"},
	"AWS::ECS::Cluster":       {"aws_ecs_cluster_capacity_providers": "cluster_name"},
	"AWS::IAM::Role":          {"aws_iam_role_policy": "role"},
	"AWS::IAM::ManagedPolicy": {"aws_iam_role_policy_attachment": "policy_arn"},
	"AWS::EC2::SecurityGroup": {"aws_vpc_security_group_egress_rule": "security_group_id", "aws_vpc_security_group_ingress_rule": "security_group_id"},
	"AWS::Events::Rule":       {"aws_cloudwatch_event_target": "rule"},
}

// The module has no resource that is not one of the template or a part of one, and the parts of each have together the values that the
// template has, each as often.
func TestTerraformHasNothingElse(t *testing.T) {
	for name, s := range allStacks(t) {
		text, err := s.Terraform()
		if err != nil {
			t.Fatal(err)
		}
		m := readModule(t, text)
		w := &terraformWriter{stack: s}
		seen := make(map[*hclsyntax.Block]bool)
		for _, r := range s.Resources {
			kind := terraformKinds[r.Type]
			var want, got []string
			for _, p := range resolve(r.Properties, w.reading).(Object) {
				if left, given := kind.names[p.Name]; given && left == "" && p.Name != "UpdateMethod" {
					want = append(want, leaves(plain(t, p.Value))...)
				}
			}
			label := regexp.MustCompile("^" + snake(r.ID) + "[0-9]*$")
			for _, b := range m.blocks {
				if b.Type != "resource" || seen[b] {
					continue
				}
				link, isPart := partKinds[r.Type][b.Labels[0]]
				switch {
				case b.Labels[0] == kind.name && b.Labels[1] == snake(r.ID):
					seen[b] = true
				case isPart && label.MatchString(b.Labels[1]):
					seen[b] = true
					got = append(got, m.values(b.Body, link)...)
					if to := "<" + kind.name + "." + snake(r.ID) + "."; !strings.HasPrefix(fmt.Sprint(m.value(b.Body.Attributes[link].Expr)), to) {
						t.Errorf("%s: %q is no part of %s", name, b.Labels, r.ID)
					}
				}
			}
			slices.Sort(want)
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: the parts of %s have %q, want %q", name, r.ID, got, want)
			}
		}
		for _, b := range m.blocks {
			if b.Type == "resource" && !seen[b] {
				t.Errorf("%s: the template has nothing like %q", name, b.Labels)
			}
		}
	}
}

// values are those of a body's attributes but one, and of the blocks in it. Variables have no other values than the module gives them.
func (m *module) values(body *hclsyntax.Body, but string) (all []string) {
	if body.Attributes["for_each"] != nil {
		return slices.Concat(m.each(body, but, cty.NullVal(cty.Map(egressType)))...)
	}
	for name, a := range body.Attributes {
		if name != but {
			all = append(all, leaves(m.value(a.Expr))...)
		}
	}
	for _, b := range body.Blocks {
		all = append(all, m.values(b.Body, "")...)
	}
	return all
}

// leaves are the texts, numbers and truths in a value of JSON.
func leaves(v any) (all []string) {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			all = append(all, leaves(e)...)
		}
	case []any:
		for _, e := range v {
			all = append(all, leaves(e)...)
		}
	default:
		all = append(all, fmt.Sprint(v))
	}
	return all
}

// What the provider has as resources of their own is there too, with what the template says.
func TestTerraformParts(t *testing.T) {
	s := newStack(t, variants["classes"])
	text, err := s.Terraform()
	if err != nil {
		t.Fatal(err)
	}
	m := readModule(t, text)
	for _, tt := range []struct{ kind, id, attribute, want string }{
		{"aws_s3_bucket_public_access_block", "audit_bucket", "block_public_policy", "true"},
		{"aws_s3_bucket_versioning", "audit_bucket", "bucket", "<aws_s3_bucket.audit_bucket.id>"},
		{"aws_ecr_lifecycle_policy", "repository", "repository", "<aws_ecr_repository.repository.name>"},
		{"aws_iam_role_policy", "task_role", "role", "<aws_iam_role.task_role.name>"},
		{"aws_iam_role_policy_attachment", "user_policy_read_only1", "role", "analysts"},
		{"aws_vpc_security_group_egress_rule", "security_group1", "cidr_ipv4", "0.0.0.0/0"},
		{"aws_ecs_cluster_capacity_providers", "cluster", "capacity_providers", "[FARGATE FARGATE_SPOT]"},
		{"aws_cloudwatch_event_target", "other_command", "arn", "<aws_sns_topic.alarm_topic.arn>"},
	} {
		body := m.resource(tt.kind, tt.id)
		if body == nil || body.Attributes[tt.attribute] == nil {
			t.Errorf("no %s %s with %s", tt.kind, tt.id, tt.attribute)
			continue
		}
		if got := fmt.Sprint(m.value(body.Attributes[tt.attribute].Expr)); got != tt.want {
			t.Errorf("%s %s: %s is %s, want %s", tt.kind, tt.id, tt.attribute, got, tt.want)
		}
	}
	if kinds := len(s.Resources); len(m.blocks) < kinds {
		t.Errorf("%d blocks for %d resources", len(m.blocks), kinds)
	}
}

// Whoever uses the module gives rules of their own in place of those in it, as many as they like. The rules that lead to AWS stay.
func TestTerraformEgress(t *testing.T) {
	rule := func(port int64, cidr, group, description string) cty.Value {
		optional := func(text string) cty.Value {
			if text == "" {
				return cty.NullVal(cty.String)
			}
			return cty.StringVal(text)
		}
		return cty.ObjectVal(map[string]cty.Value{
			"port": cty.NumberIntVal(port), "cidr": optional(cidr), "group": optional(group), "description": optional(description),
		})
	}
	given := cty.MapVal(map[string]cty.Value{
		"orders": rule(5432, "", "sg-0123456789abcdef1", ""), "search": rule(9200, "10.1.0.0/16", "", "OpenSearch"), "web": rule(8080, "10.2.0.0/16", "", ""),
	})
	for name, s := range allStacks(t) {
		text, err := s.Terraform()
		if err != nil {
			t.Fatal(err)
		}
		m := readModule(t, text)
		body := m.resource("aws_vpc_security_group_egress_rule", "security_group")
		if _, own := s.Resource("SecurityGroup"); !own {
			if body != nil || strings.Contains(string(text), "var.egress") {
				t.Errorf("%s: rules for a group that is not the stack's", name)
			}
			continue
		}
		var got []string
		for _, values := range m.each(body, "security_group_id", given) {
			slices.Sort(values)
			got = append(got, strings.Join(values, " "))
		}
		if want := []string{"5432 5432 orders sg-0123456789abcdef1 tcp", "10.1.0.0/16 9200 9200 OpenSearch tcp", "10.2.0.0/16 8080 8080 tcp web"}; !slices.Equal(got, want) {
			t.Errorf("%s: rules %q, want %q", name, got, want)
		}
		if none := m.each(body, "", cty.MapValEmpty(egressType)); len(none) != 0 {
			t.Errorf("%s: without any, %q", name, none)
		}
		if toAWS := m.resource("aws_vpc_security_group_egress_rule", "security_group1"); toAWS == nil || m.value(toAWS.Attributes["from_port"].Expr) != 443.0 {
			t.Errorf("%s: no rule leads to AWS", name)
		}
	}
}

// What the template has in another form than the provider: the service's network, whether its tasks have public addresses, and the tags
// and metrics of an Auto Scaling group.
func TestTerraformForms(t *testing.T) {
	for name, public := range map[string]bool{"shared": false, "only shared": true} {
		text, err := newStack(t, variants[name]).Terraform()
		if err != nil {
			t.Fatal(err)
		}
		m := readModule(t, text)
		service := m.resource("aws_ecs_service", "service"+map[bool]string{false: "_team"}[public])
		if service == nil {
			t.Fatalf("%s: no service", name)
		}
		blocks := make(map[string]*hclsyntax.Body)
		for _, b := range service.Blocks {
			blocks[b.Type] = b.Body
		}
		if network := blocks["network_configuration"]; network == nil || m.value(network.Attributes["assign_public_ip"].Expr) != public ||
			m.value(network.Attributes["subnets"].Expr) != "<var.subnet_ids>" {
			t.Errorf("%s: network %+v", name, network)
		}
		if breaker := blocks["deployment_circuit_breaker"]; breaker == nil || m.value(breaker.Attributes["rollback"].Expr) != true {
			t.Errorf("%s: circuit breaker %+v", name, breaker)
		}
		if service.Attributes["deployment_minimum_healthy_percent"] == nil || m.value(service.Attributes["cluster"].Expr) != "<aws_ecs_cluster.cluster.name>" {
			t.Errorf("%s: %+v", name, service.Attributes)
		}
	}
	text, err := newClassic(t, classics["classic hours"]).Terraform()
	if err != nil {
		t.Fatal(err)
	}
	m := readModule(t, text)
	group := m.resource("aws_autoscaling_group", "instances")
	tags := 0
	for _, b := range group.Blocks {
		if b.Type == "tag" && m.value(b.Body.Attributes["propagate_at_launch"].Expr) == true {
			tags++
		}
	}
	if tags != 3 || len(m.value(group.Attributes["enabled_metrics"].Expr).([]any)) != len(groupMetrics) {
		t.Errorf("%d tags, %+v", tags, group.Attributes)
	}
	busy := m.resource("aws_cloudwatch_metric_alarm", "busy_alarm")
	if got := fmt.Sprint(m.value(busy.Attributes["dimensions"].Expr)); got != "map[AutoScalingGroupName:<aws_autoscaling_group.instances.name>]" {
		t.Errorf("dimensions %s", got)
	}
	if launch := m.resource("aws_launch_template", "launch_template"); launch == nil || launch.Attributes["instance_type"] == nil {
		t.Error("the launch template has no instance type")
	}
}

// Names of CloudFormation's as Terraform has them.
func TestSnake(t *testing.T) {
	for name, want := range map[string]string{
		"KmsKeyId": "kms_key_id", "EndpointEcrApi": "endpoint_ecr_api", "BlockPublicAcls": "block_public_acls", "VPCEndpoint": "vpc_endpoint",
		"S3KeyPrefix": "s3_key_prefix", "MetricName": "metric_name",
	} {
		if got := snake(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
