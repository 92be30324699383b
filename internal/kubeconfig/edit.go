package kubeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// model is a file's content, in its order.
type model = yaml.MapSlice

// decode reads a file; nil for one without content.
func decode(text []byte) (model, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	var v any
	dec := yaml.NewDecoder(bytes.NewReader(text), yaml.UseOrderedMap())
	if err := dec.Decode(&v); errors.Is(err, io.EOF) { // comments alone
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := dec.Decode(new(any)); err == nil {
		return nil, errors.New("it has several documents")
	}
	if v == nil {
		return nil, nil
	}
	m, ok := v.(model)
	if !ok {
		return nil, errors.New("it is not a mapping")
	}
	seen := make(map[any]bool)
	for _, item := range m {
		if seen[item.Key] {
			return nil, fmt.Errorf("it has %v twice", item.Key)
		}
		seen[item.Key] = true
	}
	for _, section := range []string{clusters, contexts, users} {
		if _, err := items(m, section); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func get(m model, key string) (any, bool) {
	for _, item := range m {
		if item.Key == key {
			return item.Value, true
		}
	}
	return nil, false
}

// set returns m with a key's value.
func set(m model, key string, value any) model {
	m = slices.Clone(m)
	for i := range m {
		if m[i].Key == key {
			m[i].Value = value
			return m
		}
	}
	return append(m, yaml.MapItem{Key: key, Value: value})
}

// items returns a section's entries.
func items(m model, section string) ([]any, error) {
	v, _ := get(m, section)
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s is not a list", section)
	}
	for _, item := range list {
		if _, ok := item.(model); !ok {
			return nil, fmt.Errorf("%s has an entry that is not a mapping", section)
		}
	}
	return list, nil
}

func nameOf(item any) string {
	m, _ := item.(model)
	v, _ := get(m, "name")
	name, _ := v.(string)
	return name
}

// change is an edit of one section: the entries that go, and one that comes in the place of the first of them, or last.
type change struct {
	section string
	gone    func(item any) bool
	entry   model // nil: none
}

// apply makes the change in a model.
func (c change) apply(m model) (model, error) {
	list, err := items(m, c.section)
	if err != nil {
		return nil, err
	}
	var out []any
	placed := c.entry == nil
	for _, item := range list {
		if !c.gone(item) {
			out = append(out, item)
			continue
		}
		if !placed {
			out, placed = append(out, c.entry), true
		}
	}
	if !placed {
		out = append(out, c.entry)
	}
	if out == nil {
		out = []any{}
	}
	return set(m, c.section, out), nil
}

// edit makes changes in a text. Where the text's style does not allow a change, the text is written anew.
func edit(text []byte, changes []change, currentContext *string) ([]byte, error) {
	m, err := decode(text)
	if err != nil {
		return nil, err
	}
	if m == nil {
		m = model{
			{Key: "apiVersion", Value: "v1"},
			{Key: "kind", Value: "Config"},
			{Key: clusters, Value: []any{}},
			{Key: contexts, Value: []any{}},
			{Key: current, Value: ""},
			{Key: users, Value: []any{}},
		}
		fresh, err := yaml.Marshal(m)
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(text)) > 0 { // comments
			fresh = append(append(bytes.TrimRight(text, "\n"), '\n'), fresh...)
		}
		text = fresh
	}
	for _, c := range changes {
		want, err := c.apply(m)
		if err != nil {
			return nil, err
		}
		if text, err = meaning(c.inText(text), want); err != nil {
			return nil, err
		}
		m = want
	}
	if currentContext != nil {
		want := set(m, current, *currentContext)
		return meaning(currentInText(text, *currentContext), want)
	}
	return text, nil
}

// meaning returns a text if it means what it should, else one that does.
func meaning(text []byte, want model) ([]byte, error) {
	if text != nil {
		if got, err := decode(text); err == nil && reflect.DeepEqual(got, want) {
			return text, nil
		}
	}
	fresh, err := yaml.Marshal(want)
	if err != nil {
		return nil, err
	}
	if got, err := decode(fresh); err != nil || !reflect.DeepEqual(got, want) {
		return nil, errors.New("it cannot be written anew without a change of its other content")
	}
	return fresh, nil
}

// Merge returns a file's text with the cluster, its user and its context, which becomes the current one.
func Merge(text []byte, c Cluster) ([]byte, error) {
	entries := c.entries()
	var changes []change
	for _, section := range []string{clusters, contexts, users} {
		entry := entries[section]
		changes = append(changes, change{section, func(item any) bool { return nameOf(item) == nameOf(entry) }, entry})
	}
	name := c.context()
	return edit(text, changes, &name)
}

// Remove returns a file's text without the cluster and the user of a name, and without the contexts of the two. found reports whether
// there was any of these.
func Remove(text []byte, name string) (_ []byte, found bool, err error) {
	m, err := decode(text)
	if err != nil || m == nil {
		return text, false, err
	}
	named := func(item any) bool { return nameOf(item) == name }
	var gone []string // contexts
	ofCluster := func(item any) bool { return clusterOf(item) == name }
	var changes []change
	for section, is := range map[string]func(any) bool{clusters: named, contexts: ofCluster, users: named} {
		list, err := items(m, section)
		if err != nil {
			return nil, false, err
		}
		for _, item := range list {
			if !is(item) {
				continue
			}
			found = true
			if section == contexts {
				gone = append(gone, nameOf(item))
			}
		}
		if slices.ContainsFunc(list, is) {
			changes = append(changes, change{section, is, nil})
		}
	}
	if !found {
		return text, false, nil
	}
	slices.SortFunc(changes, func(a, b change) int { return strings.Compare(a.section, b.section) })
	var currentContext *string
	if v, _ := get(m, current); slices.ContainsFunc(gone, func(n string) bool { return v == n }) {
		currentContext = new(string)
	}
	text, err = edit(text, changes, currentContext)
	return text, true, err
}

// Has reports whether a file's text has a cluster of the name.
func Has(text []byte, name string) bool {
	m, err := decode(text)
	if err != nil {
		return false
	}
	list, _ := items(m, clusters)
	return slices.ContainsFunc(list, func(item any) bool { return nameOf(item) == name })
}

func setCurrent(text []byte, name string) ([]byte, error) { return edit(text, nil, &name) }

// Named returns the clusters that a name means: one of that very name, else the EKS clusters of that name, of a region or, if it is
// empty, of any; else those of a context of the name.
func Named(text []byte, name, region string) ([]string, error) {
	m, err := decode(text)
	if err != nil {
		return nil, err
	}
	if Has(text, name) {
		return []string{name}, nil
	}
	list, err := items(m, clusters)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, item := range list {
		parts := strings.SplitN(nameOf(item), ":", 6)
		if len(parts) == 6 && parts[0] == "arn" && parts[2] == "eks" && parts[5] == "cluster/"+name && (region == "" || region == parts[3]) {
			out = append(out, nameOf(item))
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	if cluster := ClusterOf(text, name); cluster != "" {
		return []string{cluster}, nil
	}
	return nil, nil
}

// ClusterOf returns the cluster of the context of a name; "" if there is none.
func ClusterOf(text []byte, context string) string {
	m, err := decode(text)
	if err != nil {
		return ""
	}
	list, _ := items(m, contexts)
	for _, item := range list {
		if nameOf(item) == context {
			return clusterOf(item)
		}
	}
	return ""
}

// clusterOf returns the name of a context's cluster.
func clusterOf(item any) string {
	m, _ := item.(model)
	inner, _ := get(m, "context")
	c, _ := inner.(model)
	v, _ := get(c, "cluster")
	cluster, _ := v.(string)
	return cluster
}
