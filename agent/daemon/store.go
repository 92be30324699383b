package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
)

// store is the file of the detached forwards. It holds no secrets.
type store struct{ path string }

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
	Owner    string             `json:"owner,omitempty"`  // whose credentials the variables had
	Link     string             `json:"link"`             // id of the engine
	Target   string             `json:"target,omitempty"` // host:port
	Engine   string             `json:"engine,omitempty"` // of the target
	TLS      bool               `json:"tls,omitempty"`
	Database string             `json:"database,omitempty"`
	IAM      bool               `json:"iam,omitempty"`
	Cluster  agent.ClusterMode  `json:"cluster,omitempty"`
	Note     string             `json:"note,omitempty"`
	Command  string             `json:"command"`
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
	tmp := s.path + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, s.path)
}

// setAside keeps a file that load cannot read from being replaced by save, and returns where it is then.
func (s store) setAside() (path string, err error) {
	path = s.path + ".unread"
	return path, os.Rename(s.path, path)
}
