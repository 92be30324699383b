package daemon

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/files"
)

// store is the file of the detached forwards. It holds no secrets.
type store struct{ path string }

func storeIn(stateDir string) store { return store{path: filepath.Join(stateDir, "forwards.json")} }

// storeVersion is the version of the file's form.
const storeVersion = 1

type stored struct {
	V        int      `json:"v"`
	Forwards []record `json:"forwards"`
}

// record is what a detached forward is made of again.
type record struct {
	Request  api.ForwardRequest `json:"request"`
	Scope    api.Scope          `json:"scope"`
	Owner    string             `json:"owner,omitempty"` // whose credentials the variables had
	Link     string             `json:"link"`            // id of the engine
	Region   string             `json:"region,omitempty"`
	Account  string             `json:"account,omitempty"`
	Target   string             `json:"target,omitempty"` // host:port
	Engine   string             `json:"engine,omitempty"` // of the target
	TLS      bool               `json:"tls,omitempty"`
	Database string             `json:"database,omitempty"`
	IAM      bool               `json:"iam,omitempty"`
	Cluster  agent.ClusterMode  `json:"cluster,omitempty"`
	Note     string             `json:"note,omitempty"`
	Command  string             `json:"command"`
}

// show returns what others see of the record: all that is not of the moment.
func (r *record) show() api.Forward {
	s := r.scope()
	return api.Forward{
		Profile: s.profile, Region: s.region, Account: cmp.Or(r.Account, s.account), Owner: r.Owner,
		Name: r.Request.Name, Kind: r.Request.Kind, Spec: r.Request.Target, Target: r.Target, Listen: r.Request.Listen, Engine: r.Engine,
		TLS: r.TLS, Database: r.Database, IAM: r.IAM, Note: r.Note, Command: r.Command, Link: r.Link, Clients: []api.ForwardClient{},
	}
}

// load returns the records; none where there is no file.
func (s store) load() ([]record, error) {
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out stored
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	if out.V != storeVersion {
		return nil, fmt.Errorf("%s is of version %d", s.path, out.V)
	}
	return out.Forwards, nil
}

// save writes the records in place of those that were there.
func (s store) save(records []record) error {
	data, err := json.MarshalIndent(stored{V: storeVersion, Forwards: records}, "", "  ")
	if err != nil {
		return err
	}
	return files.Replace(s.path, append(data, '\n'), 0o600)
}

// setAside keeps a file that load cannot read from being replaced by save, and returns where it is then.
func (s store) setAside() (path string, err error) {
	path = s.path + ".unread"
	return path, os.Rename(s.path, path)
}
