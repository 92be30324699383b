package targets

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the table in docs/targets.md")

const (
	pageOfTargets = "../docs/targets.md"
	tableBegin    = "<!-- kinds: go test ./targets -run TestPage -update rewrites this table -->\n"
	tableEnd      = "<!-- end of kinds -->\n"
)

// TestPage: the page has the table of kinds as the program has it.
func TestPage(t *testing.T) {
	text, err := os.ReadFile(pageOfTargets)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	have, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no table of kinds", pageOfTargets)
	}
	if want := tableOfKinds(); have != want {
		if !*update {
			t.Fatalf("the table of %s is not that of the program: run go test ./targets -run TestPage -update\n%s", pageOfTargets, want)
		}
		if err := os.WriteFile(pageOfTargets, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func tableOfKinds() string {
	var b strings.Builder
	b.WriteString("| Target | It is | Port | TLS only | Security groups | IAM signs in | Permissions |\n|---|---|---|---|---|---|---|\n")
	for _, d := range Kinds() {
		form := "`" + d.Prefix + ":" + strings.ReplaceAll(d.Form, "|", "` or `") + "`"
		b.WriteString("| " + form + " | " + d.Help + " | " + d.Port + " | " + d.TLS + " | " + d.Guard + " | " + d.SignIn + " | `" + strings.Join(d.Actions(), "`, `") + "` |\n")
	}
	return b.String()
}

// Each row is whole, and its prefix can be told from every other.
func TestKindRows(t *testing.T) {
	seen := make(map[string]bool)
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range Kinds() {
		if d.Kind == 0 || d.Prefix == "" || d.Form == "" || d.Noun == "" || d.Help == "" || d.Lists == "" || d.Port == "" || d.TLS == "" || d.Guard == "" || d.SignIn == "" ||
			d.id == nil || d.parts == nil || len(d.Actions()) == 0 {
			t.Errorf("the row of %q is not whole: %+v", d.Prefix, d)
		}
		if d.Prefix != strings.ToLower(d.Prefix) || strings.ContainsAny(d.Prefix, ":/. ") || seen[d.Prefix] {
			t.Errorf("%q is no prefix", d.Prefix)
		}
		seen[d.Prefix] = true
		if !strings.Contains(string(doc), "\""+d.Prefix+"\"") {
			t.Errorf("the grammar in doc.go lacks %q", d.Prefix)
		}
		if (d.listedBy == 0) != (d.is == nil) {
			t.Errorf("%s: listedBy and is go together", d.Prefix)
		}
		for _, text := range []string{d.Prefix, d.Prefix + ":5432"} {
			spec, err := Parse(text)
			if err != nil || spec.Kind != d.Kind || spec.ID != "" || spec.String() != text {
				t.Errorf("Parse(%q) = %+v, %v", text, spec, err)
			}
		}
	}
}

func TestParseKinds(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Spec
		text string // canonical form, where it differs from in
	}{
		{"docdb:Papers/reader", Spec{Kind: DocDB, ID: "papers", Role: Reader}, "docdb:papers/reader"},
		{"MSK:Orders/2:9098", Spec{Kind: MSK, ID: "Orders/b-2", Port: 9098}, "msk:Orders/b-2:9098"},
		{"msk:orders/b-11", Spec{Kind: MSK, ID: "orders/b-11"}, ""},
		{"eks:Main_1", Spec{Kind: EKS, ID: "Main_1"}, ""},
		{"lb:Web-1:80", Spec{Kind: LoadBalancer, ID: "Web-1", Port: 80}, ""},
		{"ec2:web (blue)/1:22", Spec{Kind: EC2, ID: "web (blue)/1", Port: 22}, ""},
		{"ec2:10.0.3.7:22", Spec{Kind: EC2, ID: "10.0.3.7", Port: 22}, ""},
		{"ec2:22", Spec{Kind: EC2, Port: 22}, ""},
		{"ecs:apps/web", Spec{Kind: ECS, ID: "apps/web"}, ""},
		{"cloudmap:corp.internal/billing:8080", Spec{Kind: CloudMap, ID: "corp.internal/billing", Port: 8080}, ""},
		{"msk.:9092", Spec{Kind: Host, Host: "msk.", Port: 9092}, ""},
	} {
		got, err := Parse(tt.in)
		if tt.text == "" {
			tt.text = tt.in
		}
		if err != nil || got != tt.want || got.String() != tt.text {
			t.Errorf("Parse(%q) = %+v (%s), %v", tt.in, got, got, err)
		}
	}
	for _, text := range []string{
		"eks:", "eks:a b", "eks:main/reader", "msk:orders/", "msk:orders/b 1", "msk:a/b/c", "lb:" + strings.Repeat("x", 33), "ecs:apps", "ecs:/x", "ecs:a/b/c",
		"cloudmap:x", "cloudmap:a/b c", "ec2:we*b:1", "ec2:\x1b[1m:1", "docdb:papers/other", "redshift:dwh/reader", "eks:main:0", "eks:main:x", "eks:a:1:2",
	} {
		if got, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %+v", text, got)
		}
	}
	pair, err := ParseL("8080:eks:main")
	if want := (Spec{Kind: EKS, ID: "main"}); err != nil || pair.Target != want || pair.Local.Port != 8080 {
		t.Errorf("%+v, %v", pair, err)
	}
	pair, err = ParseL("8080:lb:80")
	if want := (Spec{Kind: Host, Host: "lb", Port: 80}); err != nil || pair.Target != want {
		t.Errorf("%+v, %v", pair, err)
	}
}

// A name of the configuration has precedence over a bare kind of the same name, and never leads to itself.
func TestNamedAsKinds(t *testing.T) {
	r := (&wire{}).resolver(t)
	r.Names = map[string]Named{"opensearch": {Target: "search.internal:443"}, "lb": {Target: "lb"}}
	e, err := r.Resolve(t.Context(), mustParse(t, "opensearch:9200"))
	if want := (Endpoint{Name: "opensearch", Host: "search.internal", Port: 9200}); err != nil || e != want {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := r.Resolve(t.Context(), mustParse(t, "lb")); err == nil {
		t.Errorf("%+v", e)
	}
}
