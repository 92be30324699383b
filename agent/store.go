package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/files"
)

// store is the file of the detached forwards. It contains no secrets.
type store struct{ path string }

func storeIn(stateDir string) store { return store{path: filepath.Join(stateDir, "forwards.json")} }

// storeVersion is the version of the file format.
const storeVersion = 1

type stored struct {
	V        int               `json:"v"`
	Forwards []forwards.Record `json:"forwards"`
}

// load returns the records; none if the file does not exist.
func (s store) load() ([]forwards.Record, error) {
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
	for i := range out.Forwards {
		out.Forwards[i].FromFile()
	}
	return out.Forwards, nil
}

// save replaces the file's records.
func (s store) save(records []forwards.Record) error {
	saved := make([]forwards.Record, len(records))
	for i := range records {
		saved[i] = records[i].ForFile()
	}
	data, err := json.MarshalIndent(stored{V: storeVersion, Forwards: saved}, "", "  ")
	if err != nil {
		return err
	}
	return files.Replace(s.path, append(data, '\n'), 0o600)
}

// setAside renames a file that load cannot read, so that save does not replace it. It returns the new path.
func (s store) setAside() (path string, err error) {
	path = s.path + ".unread"
	return path, os.Rename(s.path, path)
}
