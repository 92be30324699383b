package forwards

import (
	"cmp"
	"maps"

	"github.com/bastion-ssm/bastion/agent/api"
)

// Record has what it takes to reopen a forward. The file of detached forwards stores it in this form. It contains no secrets.
type Record struct {
	Request  api.ForwardRequest `json:"request"`
	Scope    api.Scope          `json:"scope"`
	Owner    string             `json:"owner,omitempty"` // ARN of the variables' credentials
	Link     string             `json:"link"`            // id of the link
	Region   string             `json:"region,omitempty"`
	Account  string             `json:"account,omitempty"`
	Target   string             `json:"target,omitempty"` // host:port
	Engine   string             `json:"engine,omitempty"` // of the target
	TLS      bool               `json:"tls,omitempty"`
	Database string             `json:"database,omitempty"`
	IAM      bool               `json:"iam,omitempty"`
	Cluster  ClusterMode        `json:"cluster,omitempty"`
	Note     string             `json:"note,omitempty"`
	// Environment is the environment among the settings, while the record is in the file.
	Environment string `json:"environment,omitempty"`
	Command     string `json:"command"`
}

// show returns the API's view of the record: the part that does not change with time.
func (r *Record) show() api.Forward {
	s := r.scope()
	return api.Forward{
		Environment: s.environment, Profile: s.profile, Region: s.region, Account: cmp.Or(r.Account, s.account), Owner: r.Owner,
		Name: r.Request.Name, Kind: r.Request.Kind, Spec: r.Request.Target, Target: r.Target, Listen: r.Request.Listen, Engine: r.Engine,
		TLS: r.TLS, Database: r.Database, IAM: r.IAM, Note: r.Note, Command: r.Command, Link: r.Link, Clients: []api.ForwardClient{},
	}
}

const environmentKey = "environment"

// ForFile returns the record in the form of the file: an older agent, which refuses the environment among the settings, reads it too.
func (r *Record) ForFile() Record {
	out := *r
	if name := r.Scope.Settings[environmentKey]; name != "" {
		out.Scope.Settings = maps.Clone(r.Scope.Settings)
		delete(out.Scope.Settings, environmentKey)
		out.Environment = name
	}
	return out
}

// FromFile undoes ForFile.
func (r *Record) FromFile() {
	if r.Environment == "" {
		return
	}
	settings := map[string]string{environmentKey: r.Environment}
	maps.Copy(settings, r.Scope.Settings)
	r.Scope.Settings, r.Environment = settings, ""
}
