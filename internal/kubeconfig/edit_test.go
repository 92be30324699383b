package kubeconfig

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const arn = "arn:aws:eks:eu-central-1:000000000000:cluster/prod"

var prod = Cluster{
	Name: arn, Context: "prod", Server: "https://ABC.gr7.eu-central-1.eks.amazonaws.com", CA: []byte("-----BEGIN CERTIFICATE-----\n"),
	Proxy: "http://127.0.0.1:41234",
	Exec:  Exec{Command: "/usr/local/bin/bastion", Args: []string{"eks-token", "prod", "--region", "eu-central-1"}},
}

// byHand is a file as people and programs write them.
const byHand = `# my clusters
apiVersion: v1
kind: Config
preferences: {}
current-context: minikube   # at home
clusters:
# the small one
- cluster:
    server: https://192.168.49.2:8443   # changes
    certificate-authority: /home/ann/.minikube/ca.crt
    extensions:
    - extension: {provider: minikube.sigs.k8s.io, version: v1.30}
      name: cluster_info
  name: minikube

- name: other
  cluster: {server: "https://other.example", insecure-skip-tls-verify: true}
contexts:
  - context:
      cluster: minikube
      user: minikube
      namespace: "0123"
    name: minikube
users:
- name: minikube
  user:
    client-certificate: /home/ann/.minikube/client.crt
    token: 1e3
    password: "no"
    note: |
      two lines
      - not an entry
- name: other
  user: {}
`

const asJSON = `{"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "a", "cluster": {"server": "https://a.example"}}],
 "users": [], "contexts": null, "current-context": ""}
`

// styles are files in the styles that programs write.
var styles = map[string]string{
	"by hand":        byHand,
	"CRLF":           strings.ReplaceAll(byHand, "\n", "\r\n"),
	"no newline":     strings.TrimRight(byHand, "\n"),
	"JSON":           asJSON,
	"AWS CLI, new":   "apiVersion: v1\nclusters: []\ncontexts: []\ncurrent-context: ''\nkind: Config\npreferences: {}\nusers: []\n",
	"kubectl, new":   "apiVersion: v1\nclusters: null\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {}\nusers: null\n",
	"without keys":   "apiVersion: v1\nkind: Config\n",
	"flow":           "kind: Config\nclusters: [{name: x, cluster: {server: s}}]\nusers:\n- {name: u, user: {}}\ncontexts: ~\n",
	"only a comment": "# nothing yet\n",
	"empty":          "",
	"quoted keys":    "\"apiVersion\": v1\n\"clusters\":\n- name: x\n  cluster: {server: s}\n'users': []\n",
	"documents end":  "---\napiVersion: v1\nclusters:\n- name: x\n  cluster: {server: s}\n",
}

func decoded(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal(text, &m); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return m
}

func entry(t *testing.T, m map[string]any, section, name string) map[string]any {
	t.Helper()
	list, _ := m[section].([]any)
	var found []map[string]any
	for _, item := range list {
		if e := item.(map[string]any); e["name"] == name {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d entries %q", section, len(found), name)
	}
	return found[0]
}

// others returns a file's content without what Merge writes.
func others(t *testing.T, text string) map[string]any {
	t.Helper()
	m := decoded(t, []byte(text))
	if m == nil {
		return nil
	}
	for _, section := range []string{clusters, contexts, users} {
		var kept []any
		list, _ := m[section].([]any)
		for _, item := range list {
			if n := item.(map[string]any)["name"]; n != arn && n != "prod" {
				kept = append(kept, item)
			}
		}
		m[section] = kept
	}
	delete(m, current)
	return m
}

// Merge adds the cluster in every style, once, and leaves the rest as it is. Remove leaves what was there before.
func TestMergeAndRemove(t *testing.T) {
	for name, text := range styles {
		t.Run(name, func(t *testing.T) {
			merged, err := Merge([]byte(text), prod)
			if err != nil {
				t.Fatal(err)
			}
			m := decoded(t, merged)
			cluster := entry(t, m, clusters, arn)["cluster"].(map[string]any)
			exec := entry(t, m, users, arn)["user"].(map[string]any)["exec"].(map[string]any)
			use := entry(t, m, contexts, "prod")["context"].(map[string]any)
			if cluster["proxy-url"] != prod.Proxy || cluster["server"] != prod.Server || exec["command"] != prod.Exec.Command ||
				use["cluster"] != arn || use["user"] != arn || m[current] != "prod" {
				t.Errorf("%v\n%v\n%v", cluster, exec, use)
			}
			if before := others(t, text); len(before) > 3 && !reflect.DeepEqual(before, others(t, string(merged))) {
				t.Errorf("the rest was\n%v\nand is\n%v", before, others(t, string(merged)))
			}
			again, err := Merge(merged, prod)
			if err != nil || !bytes.Equal(again, merged) {
				t.Errorf("merged again, %v:\n%s\nwas:\n%s", err, again, merged)
			}
			other := prod
			other.Proxy, other.Context = "http://127.0.0.1:5", ""
			changed, err := Merge(merged, other)
			if err != nil {
				t.Fatal(err)
			}
			if c := entry(t, decoded(t, changed), clusters, arn)["cluster"].(map[string]any); c["proxy-url"] != "http://127.0.0.1:5" {
				t.Errorf("merged with another proxy: %v", c)
			}
			removed, found, err := Remove(changed, arn)
			if err != nil || !found {
				t.Fatalf("removed: %t, %v", found, err)
			}
			if strings.Contains(string(removed), "eks") || strings.Contains(string(removed), "41234") {
				t.Errorf("removed, and yet:\n%s", removed)
			}
			if !reflect.DeepEqual(others(t, text), others(t, string(removed))) && len(others(t, text)) > 3 {
				t.Errorf("after all the rest was\n%v\nand is\n%v", others(t, text), others(t, string(removed)))
			}
			if _, found, err := Remove(removed, arn); found || err != nil {
				t.Errorf("removed again: %t, %v", found, err)
			}
		})
	}
}

// The text of a file by hand stays, byte for byte, but for the entries and the current context.
func TestTextStays(t *testing.T) {
	for _, name := range []string{"by hand", "no newline"} {
		merged, err := Merge([]byte(styles[name]), prod)
		if err != nil {
			t.Fatal(err)
		}
		removed, _, err := Remove(merged, arn)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Replace(byHand, "current-context: minikube   # at home", `current-context: ""`, 1)
		if string(removed) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, removed, want)
		}
		if !strings.Contains(string(merged), "# the small one\n- cluster:\n    server: https://192.168.49.2:8443   # changes\n") ||
			!strings.HasPrefix(string(merged), "# my clusters\n") {
			t.Errorf("merged:\n%s", merged)
		}
	}
}

// Duplicate entries of the name become one, in the place of the first.
func TestDuplicates(t *testing.T) {
	text := "clusters:\n- name: " + arn + "\n  cluster: {server: a}\n- name: b\n  cluster: {}\n- name: " + arn + "\n  cluster: {server: c}\n"
	merged, err := Merge([]byte(text), prod)
	if err != nil {
		t.Fatal(err)
	}
	list := decoded(t, merged)[clusters].([]any)
	if len(list) != 2 || list[0].(map[string]any)["name"] != arn || list[1].(map[string]any)["name"] != "b" {
		t.Errorf("%s", merged)
	}
}

// What is no kubeconfig is refused, not overwritten.
func TestRefused(t *testing.T) {
	for _, text := range []string{
		"- a\n", "text\n", "clusters: {}\n", "users:\n- text\n", "contexts: 1\n", "a: b\n---\nc: d\n", "users: []\nusers: []\n",
		"a: [\n", "\tx: y\n",
	} {
		if out, err := Merge([]byte(text), prod); err == nil {
			t.Errorf("%q becomes:\n%s", text, out)
		}
	}
}

func TestNamed(t *testing.T) {
	text := "clusters:\n"
	const other = "arn:aws:eks:us-east-1:000000000000:cluster/"
	for _, name := range []string{arn, other + "prod", other + "dev", "kind"} {
		text += "- name: " + name + "\n  cluster: {}\n"
	}
	text += "contexts:\n- name: alias\n  context: {cluster: kind, user: u}\n"
	for _, tt := range []struct{ name, region, want string }{
		{arn, "", arn},
		{arn, "us-east-1", arn},
		{"prod", "eu-central-1", arn},
		{"prod", "", arn + " arn:aws:eks:us-east-1:000000000000:cluster/prod"},
		{"prod", "eu-west-1", ""},
		{"dev", "", "arn:aws:eks:us-east-1:000000000000:cluster/dev"},
		{"kind", "", "kind"},
		{"alias", "", "kind"},
		{"de", "", ""},
	} {
		if got, err := Named([]byte(text), tt.name, tt.region); err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%s in %q: %v, %v", tt.name, tt.region, got, err)
		}
	}
}

// A document of several clusters has the first one's context.
func TestDocument(t *testing.T) {
	dev := prod
	dev.Name, dev.Context = "arn:aws:eks:eu-central-1:000000000000:cluster/dev", "dev"
	text, err := Document(prod, dev)
	if err != nil {
		t.Fatal(err)
	}
	m := decoded(t, text)
	if m[current] != "prod" || m["kind"] != "Config" || len(m[clusters].([]any)) != 2 || len(m[users].([]any)) != 2 {
		t.Errorf("%s", text)
	}
}

// No text makes Merge lose or change other content.
func FuzzMerge(f *testing.F) {
	for _, text := range styles {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		before, err := decode([]byte(text))
		if err != nil {
			return
		}
		merged, err := Merge([]byte(text), prod)
		if err != nil {
			return
		}
		after, err := decode(merged)
		if err != nil {
			t.Fatalf("%v in %q", err, merged)
		}
		for _, item := range before {
			switch item.Key {
			case clusters, contexts, users, current:
			default:
				if key, ok := item.Key.(string); !ok {
					continue
				} else if got, ok := get(after, key); !ok || !reflect.DeepEqual(got, item.Value) {
					t.Fatalf("%v was %v and is %v", item.Key, item.Value, got)
				}
			}
		}
	})
}
