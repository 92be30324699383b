package kubeconfig

import (
	"encoding/base64"

	"github.com/goccy/go-yaml"
)

// Cluster is a cluster with its user and its context. Cluster and user have the same name.
type Cluster struct {
	Name    string // AWS's tools use the cluster's ARN
	Context string // "": Name
	Server  string // URL
	CA      []byte // PEM
	Proxy   string // URL of the proxy to the server
	Exec    Exec   // prints the user's token
}

// Exec is a program that prints a credential.
type Exec struct {
	Command string
	Args    []string
	Env     [][2]string // name and value, beside the client's environment
}

// ExecAPI is the version of the credential that the client asks the program for.
const ExecAPI = "client.authentication.k8s.io/v1beta1"

// context returns the context's name.
func (c Cluster) context() string {
	if c.Context != "" {
		return c.Context
	}
	return c.Name
}

// The sections of a file that have named entries.
const (
	clusters = "clusters"
	contexts = "contexts"
	users    = "users"

	current = "current-context"
)

// entries returns the cluster's entry in each section.
func (c Cluster) entries() map[string]yaml.MapSlice {
	args := make([]any, len(c.Exec.Args))
	for i, a := range c.Exec.Args {
		args[i] = a
	}
	exec := yaml.MapSlice{
		{Key: "apiVersion", Value: ExecAPI},
		{Key: "command", Value: c.Exec.Command},
		{Key: "args", Value: args},
		{Key: "interactiveMode", Value: "IfAvailable"},
		{Key: "provideClusterInfo", Value: false},
	}
	if len(c.Exec.Env) > 0 {
		var env []any
		for _, e := range c.Exec.Env {
			env = append(env, yaml.MapSlice{{Key: "name", Value: e[0]}, {Key: "value", Value: e[1]}})
		}
		exec = append(exec, yaml.MapItem{Key: "env", Value: env})
	}
	return map[string]yaml.MapSlice{
		clusters: {
			{Key: "cluster", Value: yaml.MapSlice{
				{Key: "certificate-authority-data", Value: base64.StdEncoding.EncodeToString(c.CA)},
				{Key: "proxy-url", Value: c.Proxy},
				{Key: "server", Value: c.Server},
			}},
			{Key: "name", Value: c.Name},
		},
		users: {
			{Key: "name", Value: c.Name},
			{Key: "user", Value: yaml.MapSlice{{Key: "exec", Value: exec}}},
		},
		contexts: {
			{Key: "context", Value: yaml.MapSlice{{Key: "cluster", Value: c.Name}, {Key: "user", Value: c.Name}}},
			{Key: "name", Value: c.context()},
		},
	}
}

// Document returns a file of clusters alone. The first one's context is the current one.
func Document(all ...Cluster) ([]byte, error) {
	var text []byte
	for i, c := range all {
		next, err := Merge(text, c)
		if err != nil {
			return nil, err
		}
		text = next
		if i > 0 {
			if text, err = setCurrent(text, all[0].context()); err != nil {
				return nil, err
			}
		}
	}
	return text, nil
}
