package iam_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bastion-ssm/bastion/e2e/iamref"
	"github.com/bastion-ssm/bastion/lab/iam"
)

const (
	account    = "000000000000"
	cluster    = "arn:aws:ecs:eu-central-1:000000000000:cluster/bastion"
	task       = "arn:aws:ecs:eu-central-1:000000000000:task/bastion/0123"
	definition = "arn:aws:ecs:eu-central-1:000000000000:task-definition/bastion:1"
	logStream  = "arn:aws:logs:eu-central-1:000000000000:log-group:/bastion:log-stream:task/x"
	me         = "AROAEXAMPLE:jo"
)

// known are the condition keys of the rules below.
var known = []string{
	"aws:userid", "aws:username", "aws:PrincipalArn", "aws:PrincipalAccount", "aws:RequestTag/", "aws:ResourceTag/", "aws:TagKeys", "ecs:cluster",
	"ecs:container-name", "ecs:enable-execute-command", "ecs:task-cpu", "ssm:SessionDocumentAccessCheck",
}

// context is what a request of jo's has besides what a rule gives it: pairs of a key and its values, which a | separates.
func context(pairs ...string) iam.Context {
	c := iam.Context{}.With("aws:userid", me).With("aws:PrincipalAccount", account)
	for i := 0; i < len(pairs); i += 2 {
		c = c.With(pairs[i], strings.Split(pairs[i+1], "|")...)
	}
	return c
}

// allow is a statement that allows an action on anything, under a condition.
func allow(action, condition string) string {
	return fmt.Sprintf(`{"Effect":"Allow","Action":%q,"Resource":"*","Condition":{%s}}`, action, condition)
}

// on is a statement that allows to describe and stop tasks on a resource.
func on(resource string) string {
	return fmt.Sprintf(`{"Effect":"Allow","Action":["ecs:DescribeTasks","ecs:StopTask"],"Resource":%q}`, resource)
}

// rule is a rule of AWS's documentation: what a policy says to a request.
type rule struct {
	name             string
	statements       string
	action, resource string
	context          iam.Context
	want             iam.Effect
}

// rules follow the pages "Policy evaluation logic", "IAM JSON policy elements" and "Condition operators" of IAM's user guide.
func rules() []rule {
	var all []rule
	add := func(name, statements, action, resource string, in iam.Context, want iam.Effect) {
		all = append(all, rule{name, statements, action, resource, in, want})
	}
	describe := func(name, statements string, in iam.Context, want iam.Effect) {
		add(name, statements, "ecs:DescribeTasks", task, in, want)
	}
	run := func(name, condition string, in iam.Context, want iam.Effect) {
		add(name, allow("ecs:RunTask", condition), "ecs:RunTask", definition, in, want)
	}
	const denyStop = `{"Effect":"Deny","Action":"ecs:StopTask","Resource":"*"}`
	describe("nothing is allowed", denyStop, context(), iam.ImplicitDeny)
	describe("a deny of another action", on("*")+","+denyStop, context(), iam.Allow)
	add("a deny wins", on("*")+","+denyStop, "ecs:StopTask", task, context(), iam.ExplicitDeny)
	add("a deny wins that stands first", denyStop+","+on("*"), "ecs:StopTask", task, context(), iam.ExplicitDeny)
	describe("a deny whose condition does not hold",
		on("*")+`,{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringNotEquals":{"aws:userid":"`+me+`"}}}`, context(), iam.Allow)
	describe("actions in any case", `{"Effect":"Allow","Action":"ECS:describetasks","Resource":"*"}`, context(), iam.Allow)
	describe("part of an action", `{"Effect":"Allow","Action":"ecs:Describe*","Resource":"*"}`, context(), iam.Allow)
	describe("one character of an action", `{"Effect":"Allow","Action":"ecs:DescribeTask?","Resource":"*"}`, context(), iam.Allow)
	describe("an action that only begins so", `{"Effect":"Allow","Action":"ecs:DescribeTask","Resource":"*"}`, context(), iam.ImplicitDeny)
	describe("any action", `{"Effect":"Allow","Action":"*","Resource":"*"}`, context(), iam.Allow)
	describe("all actions but others", `{"Effect":"Allow","NotAction":["ecs:StopTask","ssm:*"],"Resource":"*"}`, context(), iam.Allow)
	add("all actions but this", `{"Effect":"Allow","NotAction":["ecs:StopTask","ssm:*"],"Resource":"*"}`, "ecs:StopTask", task, context(), iam.ImplicitDeny)
	describe("all resources but others", `{"Effect":"Allow","Action":"*","NotResource":"`+cluster+`"}`, context(), iam.Allow)
	describe("all resources but this", `{"Effect":"Allow","Action":"*","NotResource":"`+task+`"}`, context(), iam.ImplicitDeny)

	describe("the resource", on(task), context(), iam.Allow)
	describe("a resource in other case", on(strings.Replace(task, "bastion", "Bastion", 1)), context(), iam.ImplicitDeny)
	describe("a slash is no boundary", on("arn:aws:ecs:eu-central-1:000000000000:task/*"), context(), iam.Allow)
	describe("another cluster's", on("arn:aws:ecs:eu-central-1:000000000000:task/other/*"), context(), iam.ImplicitDeny)
	describe("a cluster that begins so", on("arn:aws:ecs:eu-central-1:000000000000:task/bast/*"), context(), iam.ImplicitDeny)
	describe("any region and account", on("arn:aws:ecs:*:*:task/*"), context(), iam.Allow)
	describe("a partition by ?", on("arn:aw?:ecs:*:*:task/*"), context(), iam.Allow)
	describe("an asterisk in the middle", on("arn:aws:ecs:eu-*-1:*:task/bast*/01?3"), context(), iam.Allow)
	add("an asterisk beyond colons", `{"Effect":"Allow","Action":"logs:PutLogEvents","Resource":"arn:aws:logs:eu-central-1:000000000000:log-group:/bas*"}`,
		"logs:PutLogEvents", logStream, context(), iam.Allow)
	add("a colon that is missing", `{"Effect":"Allow","Action":"logs:PutLogEvents","Resource":"arn:aws:logs:eu-central-1:000000000000:log-group:/bastion"}`,
		"logs:PutLogEvents", logStream, context(), iam.ImplicitDeny)

	const tagged = "arn:aws:ecs:eu-central-1:000000000000:task/bastion/${aws:username}"
	describe("a variable in a resource", on(tagged), context("aws:username", "0123"), iam.Allow)
	describe("a variable with another value", on(tagged), context("aws:username", "0124"), iam.ImplicitDeny)
	describe("a variable without a value", on(tagged), context(), iam.ImplicitDeny)
	describe("a variable with a default", on("arn:aws:ecs:eu-central-1:000000000000:task/bastion/${aws:username, '0123'}"), context(), iam.Allow)
	describe("wildcards in a value are literal", on(tagged), context("aws:username", "*"), iam.ImplicitDeny)
	describe("an asterisk by name", on("arn:aws:ecs:eu-central-1:000000000000:task/bastion/${*}"), context(), iam.ImplicitDeny)

	const owner, ownerTag = `"aws:RequestTag/bastion:owner":"${aws:userid}"`, "aws:RequestTag/bastion:owner"
	run("a tag with the caller's id", `"StringEquals":{`+owner+`}`, context(ownerTag, me), iam.Allow)
	run("a tag with another id", `"StringEquals":{`+owner+`}`, context(ownerTag, me+"-ann"), iam.ImplicitDeny)
	run("a tag in other case", `"StringEquals":{`+owner+`}`, context(ownerTag, "aroaexample:jo"), iam.ImplicitDeny)
	run("without the tag", `"StringEquals":{`+owner+`}`, context(), iam.ImplicitDeny)
	run("a key in other case", `"StringEquals":{"AWS:requesttag/BASTION:Owner":"${AWS:UserId}"}`, context(ownerTag, me), iam.Allow)
	run("an id that is a pattern", `"StringLike":{`+owner+`}`, context("aws:userid", "*", ownerTag, me), iam.ImplicitDeny)
	run("two keys", `"StringEquals":{`+owner+`,"ecs:enable-execute-command":"true"}`, context(ownerTag, me), iam.ImplicitDeny)
	run("two operators", `"StringEquals":{`+owner+`},"ArnEquals":{"ecs:cluster":"`+cluster+`"}`, context(ownerTag, me), iam.ImplicitDeny)
	run("both hold", `"StringEquals":{`+owner+`},"ArnEquals":{"ecs:cluster":"`+cluster+`"}`,
		context(ownerTag, me, "ecs:cluster", cluster), iam.Allow)
	run("one of two values", `"StringEquals":{"aws:RequestTag/team":["data","web"]}`, context("aws:RequestTag/team", "web"), iam.Allow)
	run("none of two values", `"StringNotEquals":{"aws:RequestTag/team":["data","web"]}`, context("aws:RequestTag/team", "web"), iam.ImplicitDeny)
	run("other than both", `"StringNotEquals":{"aws:RequestTag/team":["data","web"]}`, context("aws:RequestTag/team", "ops"), iam.Allow)
	run("absent is other", `"StringNotEquals":{"aws:RequestTag/team":"data"}`, context(), iam.Allow)
	run("an asterisk of StringEquals", `"StringEquals":{"aws:RequestTag/team":"d*"}`, context("aws:RequestTag/team", "data"), iam.ImplicitDeny)
	run("an asterisk of StringLike", `"StringLike":{"aws:RequestTag/team":"d?t*"}`, context("aws:RequestTag/team", "data"), iam.Allow)
	run("an asterisk of StringNotLike", `"StringNotLike":{"aws:RequestTag/team":"d*"}`, context("aws:RequestTag/team", "data"), iam.ImplicitDeny)
	run("case ignored", `"StringEqualsIgnoreCase":{"aws:RequestTag/team":"DATA"}`, context("aws:RequestTag/team", "data"), iam.Allow)
	run("case ignored, not equal", `"StringNotEqualsIgnoreCase":{"aws:RequestTag/team":"DATA"}`, context("aws:RequestTag/team", "data"), iam.ImplicitDeny)

	run("if it exists, and does not", `"StringEqualsIfExists":{"aws:RequestTag/team":"data"}`, context(), iam.Allow)
	run("if it exists, and differs", `"StringEqualsIfExists":{"aws:RequestTag/team":"data"}`, context("aws:RequestTag/team", "web"), iam.ImplicitDeny)
	run("null of an absent key", `"Null":{"aws:RequestTag/team":"true"}`, context(), iam.Allow)
	run("null of a key", `"Null":{"aws:RequestTag/team":"true"}`, context("aws:RequestTag/team", "x"), iam.ImplicitDeny)
	run("not null of a key", `"Null":{"aws:RequestTag/team":"false"}`, context("aws:RequestTag/team", "x"), iam.Allow)
	run("not null of an absent key", `"Null":{"aws:RequestTag/team":false}`, context(), iam.ImplicitDeny)

	const tags = `:StringEquals":{"aws:TagKeys":["bastion:owner","team"]}`
	run("all of the values", `"ForAllValues`+tags, context("aws:TagKeys", "team|bastion:owner"), iam.Allow)
	run("not all of the values", `"ForAllValues`+tags, context("aws:TagKeys", "team|x"), iam.ImplicitDeny)
	run("all of no values", `"ForAllValues`+tags, context(), iam.Allow)
	run("any of the values", `"ForAnyValue`+tags, context("aws:TagKeys", "x|team"), iam.Allow)
	run("not any of the values", `"ForAnyValue`+tags, context("aws:TagKeys", "x|y"), iam.ImplicitDeny)
	run("any of no values", `"ForAnyValue`+tags, context(), iam.ImplicitDeny)
	run("any value that is another", `"ForAnyValue:StringNotEquals":{"aws:TagKeys":"team"}`, context("aws:TagKeys", "team|x"), iam.Allow)
	run("all values are others", `"ForAllValues:StringNotEquals":{"aws:TagKeys":"team"}`, context("aws:TagKeys", "team|x"), iam.ImplicitDeny)
	run("all values by pattern", `"ForAllValues:StringLike":{"aws:TagKeys":"bastion:*"}`, context("aws:TagKeys", "bastion:a|bastion:b"), iam.Allow)

	arn := func(name, operator, pattern string, want iam.Effect) {
		run(name, `"`+operator+`":{"ecs:cluster":"`+pattern+`"}`, context("ecs:cluster", cluster), want)
	}
	arn("ArnLike", "ArnLike", "arn:aws:ecs:*:000000000000:cluster/bas*", iam.Allow)
	arn("ArnEquals is ArnLike", "ArnEquals", "arn:aws:ecs:*:000000000000:cluster/bas*", iam.Allow)
	arn("ArnLike of another", "ArnLike", "arn:aws:ecs:*:*:cluster/x", iam.ImplicitDeny)
	arn("ArnNotLike", "ArnNotLike", "arn:aws:ecs:*:*:cluster/x", iam.Allow)
	arn("ArnNotEquals", "ArnNotEquals", "arn:aws:ecs:*:*:cluster/bastion", iam.ImplicitDeny)
	arn("ArnLike of too few parts", "ArnLike", "arn:aws:ecs:*", iam.ImplicitDeny)
	arn("ArnLike within a part", "ArnLike", "arn:aws:ecs:eu*:cluster/bastion", iam.ImplicitDeny)

	cpu := func(operator, value string, want iam.Effect) {
		run(operator+" "+value, `"`+operator+`":{"ecs:task-cpu":"`+value+`"}`, context("ecs:task-cpu", "1024"), want)
	}
	cpu("NumericEquals", "1024.0", iam.Allow)
	cpu("NumericNotEquals", "1024", iam.ImplicitDeny)
	cpu("NumericLessThan", "1024", iam.ImplicitDeny)
	cpu("NumericLessThanEquals", "1024", iam.Allow)
	cpu("NumericGreaterThan", "512", iam.Allow)
	cpu("NumericGreaterThanEquals", "2048", iam.ImplicitDeny)
	run("a number of an absent key", `"NumericLessThanEqualsIfExists":{"ecs:task-cpu":"1024"}`, context(), iam.Allow)

	session := func(name, condition string, in iam.Context, want iam.Effect) {
		add(name, allow("ssm:StartSession", condition), "ssm:StartSession", "arn:aws:ec2:eu-central-1:000000000000:instance/i-0123456789abcdef0", in, want)
	}
	const check = `{"ssm:SessionDocumentAccessCheck":"true"}`
	session("true", `"Bool":`+check, context("ssm:SessionDocumentAccessCheck", "true"), iam.Allow)
	session("false", `"Bool":`+check, context("ssm:SessionDocumentAccessCheck", "false"), iam.ImplicitDeny)
	session("neither", `"Bool":`+check, context(), iam.ImplicitDeny)
	session("neither, if it exists", `"BoolIfExists":`+check, context(), iam.Allow)
	return all
}

// decide is what the package says to a rule.
func (r rule) decide(t *testing.T) iam.Decision {
	t.Helper()
	p, err := iam.Parse("test", r.document(), known)
	if err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	d, err := iam.Evaluate(iam.Request{Action: r.action, Resource: r.resource, Context: r.context}, p)
	if err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	return d
}

func (r rule) document() []byte {
	return []byte(`{"Version":"2012-10-17","Statement":[` + r.statements + `]}`)
}

// The package decides as AWS documents it.
func TestRules(t *testing.T) {
	for _, r := range rules() {
		if got := r.decide(t).Effect; got != r.want {
			t.Errorf("%s: %s, want %s\n%s", r.name, got, r.want, r.document())
		}
	}
}

// A simulator that is not ours reads the documentation in the same way.
func TestRulesOfAnotherSimulator(t *testing.T) {
	all := rules()
	simulations := make([]iamref.Simulation, len(all))
	for i, r := range all {
		simulations[i] = iamref.Simulation{
			Policies: []json.RawMessage{r.document()}, Principal: "arn:aws:iam::000000000000:role/jo",
			Action: r.action, Resource: r.resource, Account: account, Context: r.context,
		}
	}
	for i, o := range iamref.Simulate(t, simulations) {
		got := map[string]iam.Effect{"Allowed": iam.Allow, "ImplicitlyDenied": iam.ImplicitDeny, "ExplicitlyDenied": iam.ExplicitDeny}
		if effect, ok := got[o.Effect]; !ok || effect != all[i].want || o.Error != "" || len(o.Ignored) > 0 {
			t.Errorf("%s: the simulator says %+v, want %s\n%s", all[i].name, o, all[i].want, all[i].document())
		}
	}
}

// What the package does not know, it refuses to read.
func TestParseRefuses(t *testing.T) {
	const allowed = `{"Effect":"Allow","Action":"ecs:RunTask","Resource":"*"`
	document := func(statement string) string { return `{"Version":"2012-10-17","Statement":[` + statement + `]}` }
	for name, tt := range map[string]struct{ text, want string }{
		"no JSON":           {`x`, "invalid character"},
		"another version":   {`{"Version":"2008-10-17","Statement":[]}`, "version"},
		"two documents":     {document(allowed+"}") + "{}", "behind the end"},
		"unknown element":   {document(allowed + `,"Principals":"*"}`), "unknown field"},
		"a principal":       {document(allowed + `,"Principal":"*"}`), "unknown field"},
		"another effect":    {document(`{"Effect":"allow","Action":"*","Resource":"*"}`), "effect"},
		"no action":         {document(`{"Effect":"Allow","Resource":"*"}`), "want Action or NotAction"},
		"both actions":      {document(allowed + `,"NotAction":"x:y"}`), "want Action or NotAction"},
		"no resource":       {document(`{"Effect":"Allow","Action":"*"}`), "want Resource or NotResource"},
		"no service":        {document(`{"Effect":"Allow","Action":"RunTask","Resource":"*"}`), "SERVICE:ACTION"},
		"a part of one":     {document(`{"Effect":"Allow","Action":"e*:RunTask","Resource":"*"}`), "SERVICE:ACTION"},
		"no ARN":            {document(`{"Effect":"Allow","Action":"*","Resource":"task/*"}`), "* or an ARN"},
		"any service's ARN": {document(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:*:*:*:*"}`), "* or an ARN"},
		"a condition":       {document(allowed + `,"Condition":{"DateLessThan":{"aws:userid":"x"}}}`), "DateLessThan is not known"},
		"a set of a null":   {document(allowed + `,"Condition":{"NullIfExists":{"aws:userid":"true"}}}`), "NullIfExists is not known"},
		"a set":             {document(allowed + `,"Condition":{"ForSomeValues:StringLike":{"aws:userid":"x"}}}`), "is not known"},
		"a key":             {document(allowed + `,"Condition":{"StringLike":{"ecs:subnet":"x"}}}`), "key ecs:subnet is not known"},
		"a key's beginning": {document(allowed + `,"Condition":{"StringLike":{"aws:RequestTag/":"x"}}}`), "key aws:RequestTag/ is not known"},
		"no truth":          {document(allowed + `,"Condition":{"Bool":{"aws:userid":"yes"}}}`), "of the operator's type"},
		"no number":         {document(allowed + `,"Condition":{"NumericEquals":{"ecs:task-cpu":"1 vCPU"}}}`), "of the operator's type"},
		"no value":          {document(allowed + `,"Condition":{"StringLike":{"aws:userid":[]}}}`), "want a value"},
		"an object":         {document(allowed + `,"Condition":{"StringLike":{"aws:userid":{}}}}`), "no text"},
	} {
		if _, err := iam.Parse("test", []byte(tt.text), known); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// AWS does not say what an operator for one value does with several. Neither does the package.
func TestSeveralValuesForOne(t *testing.T) {
	p, err := iam.Parse("test", rule{statements: allow("ecs:RunTask", `"StringEquals":{"aws:TagKeys":"a"}`)}.document(), known)
	if err != nil {
		t.Fatal(err)
	}
	d, err := iam.Evaluate(iam.Request{Action: "ecs:RunTask", Resource: definition, Context: context("aws:TagKeys", "a|b")}, p)
	if err == nil || d.Effect == iam.Allow || !strings.Contains(err.Error(), "aws:tagkeys has 2 values") {
		t.Errorf("%s, %v", d.Effect, err)
	}
}

// A decision names each grant that led to it.
func TestDecisionNamesGrants(t *testing.T) {
	first := `{"Sid":"One","Effect":"Allow","Action":["ssm:*","ecs:Describe*"],"Resource":["` + cluster + `","arn:aws:ecs:*:*:task/*"]}`
	d := rule{
		statements: first + `,{"Sid":"Two","Effect":"Allow","NotAction":"ssm:*","Resource":"*"}`,
		action:     "ecs:DescribeTasks", resource: task, context: context(),
	}.decide(t)
	want := []iam.Grant{{"test", "One", "ecs:Describe*", "arn:aws:ecs:*:*:task/*"}, {"test", "Two", "ecs:DescribeTasks", "*"}}
	if d.Effect != iam.Allow || !slices.Equal(d.By, want) {
		t.Errorf("%+v, want %+v", d, want)
	}
}

// Wildcards match as a regular expression does, in time that does not explode.
func FuzzMatchAction(f *testing.F) {
	f.Add("ecs:*Task?", "ecs:RunTasks")
	f.Add(strings.Repeat("*a", 100), strings.Repeat("a", 300)+"b")
	f.Fuzz(func(t *testing.T, pattern, action string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(action) || strings.ContainsAny(pattern+action, "\ue000\ue001") {
			return
		}
		// Case is left to the package: folding differs between the two for letters outside ASCII.
		pattern, action = strings.ToLower(pattern), strings.ToLower(action)
		expression := strings.NewReplacer(`\*`, `(?s:.*)`, `\?`, `(?s:.)`).Replace(regexp.QuoteMeta(pattern))
		if got, want := iam.MatchAction(pattern, action), regexp.MustCompile(`\A`+expression+`\z`).MatchString(action); got != want {
			t.Errorf("%q, %q: %t, want %t", pattern, action, got, want)
		}
	})
}
