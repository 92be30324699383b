package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// Given is a setting in a configuration file.
type Given struct {
	Setting *Setting
	Text    string
	Where   string // file:line:column
}

// NeedsTrust reports whether a project file may give the setting only once it is trusted. A default value needs no trust.
func (g Given) NeedsTrust() bool { return g.Setting.Trust != Project && g.Text != g.Setting.Default }

// Given returns the settings in the file, in the table's order.
func (f *File) Given() []Given {
	var out []Given
	for _, s := range table {
		if v, ok := f.values[s.Key]; ok {
			out = append(out, Given{Setting: s, Text: v.text, Where: v.where})
		}
	}
	return out
}

// allowed returns an error if an untrusted project file gives settings that need trust. overridden reports settings whose value
// in the file does not count anyway. Ignoring the settings instead would run a command with half of its configuration.
func (f *File) allowed(overridden func(*Setting) bool) error {
	if f.found == nil {
		return nil
	}
	var wants []string
	for _, g := range f.Given() {
		if g.NeedsTrust() && !overridden(g.Setting) {
			wants = append(wants, fmt.Sprintf("%s: %s: %q", g.Where, g.Setting.Key, g.Text))
		}
	}
	if len(wants) == 0 {
		return nil
	}
	why := "this file was found by its place, and you have not trusted it"
	if f.changed {
		why = "this file was found by its place, and has changed since you trusted it"
	}
	return fail.New(fail.Usage, "", fmt.Errorf("%s (%s)", strings.Join(wants, "; "), why),
		fmt.Sprintf("bastion trust %s shows what the file wants and lets you agree to it", display(f.found.Path)))
}

// Record is the user's trust in one content of one file.
type Record struct {
	Path   string    `json:"file"` // without symbolic links
	SHA256 string    `json:"sha256"`
	At     time.Time `json:"trusted_at"`
}

// Sum returns the SHA-256 of the file's content, in hexadecimal.
func (f *Found) Sum() string {
	sum := sha256.Sum256(f.Data)
	return hex.EncodeToString(sum[:])
}

// Store is the file of trusted project files. Only flags, variables and the default choose its directory: a configuration file
// cannot.
type Store struct{ dir string }

const (
	storeName    = "trusted.json"
	storeVersion = 1
	maxStore     = 1 << 20 // bytes
	// storeWait bounds the wait for another bastion trust that is writing the store.
	storeWait = 5 * time.Second
)

type stored struct {
	V     int      `json:"v"`
	Files []Record `json:"files"`
}

// Store returns the store of trusted files.
func (src Source) Store() Store { return src.store(src.env()) }

func (src Source) store(env func(string) (string, bool)) Store {
	dir, ok := src.Flags["state_dir"]
	if !ok || dir == "" {
		dir, _ = env("BASTION_STATE_DIR")
	}
	if dir == "" {
		return Store{dirs.DefaultState()}
	}
	return Store{expandHome(dir, env)}
}

// trust is the result of looking a project file up in the store.
type trust int

const (
	neverTrusted  trust = iota
	trustedBefore       // with other content
	trustedAsIs
)

// isTrusted looks the file up in the store.
func (src Source) isTrusted(env func(string) (string, bool), f *Found) (trust, error) {
	records, err := src.store(env).List()
	if err != nil {
		return neverTrusted, err
	}
	for _, r := range records {
		if r.Path == f.Real && r.SHA256 == f.Sum() {
			return trustedAsIs, nil
		}
		if r.Path == f.Real {
			return trustedBefore, nil
		}
	}
	return neverTrusted, nil
}

// List returns the records, sorted by path; none without a store.
func (s Store) List() ([]Record, error) {
	path := filepath.Join(s.dir, storeName)
	data, err := readFile(path, files.OpenTrusted)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var in stored
	if err == nil {
		in, err = parseStore(data)
	}
	if err != nil {
		next := "remove " + path + " and trust your files anew, with bastion trust"
		if u, ok := errors.AsType[*files.UntrustedError](err); ok && u.Fix != "" {
			next = u.Fix + "; if others may have written there, " + next
		}
		return nil, fail.New(fail.Usage, "read what is trusted", err, next)
	}
	slices.SortFunc(in.Files, func(x, y Record) int { return strings.Compare(x.Path, y.Path) })
	return in.Files, nil
}

func parseStore(data []byte) (stored, error) {
	in := stored{V: storeVersion}
	if len(data) == 0 {
		return in, nil
	}
	err := json.Unmarshal(data, &in)
	if err == nil && in.V != storeVersion {
		err = fmt.Errorf("it is of version %d", in.V)
	}
	return in, err
}

// Add records the user's trust in the file's present content only.
func (s Store) Add(ctx context.Context, f *Found, now time.Time) error {
	return s.change(ctx, func(records []Record) []Record {
		records = slices.DeleteFunc(records, func(r Record) bool { return r.Path == f.Real })
		return append(records, Record{Path: f.Real, SHA256: f.Sum(), At: now.UTC().Truncate(time.Second)})
	})
}

// Remove forgets the file at path, which need not exist. It reports whether the file was trusted.
func (s Store) Remove(ctx context.Context, path string) (had bool, err error) {
	err = s.change(ctx, func(records []Record) []Record {
		left := slices.DeleteFunc(slices.Clone(records), func(r Record) bool { return r.Path == path })
		had = len(left) < len(records)
		return left
	})
	return had, err
}

func (s Store) change(ctx context.Context, edit func([]Record) []Record) error {
	wrong := func(err error) error {
		next := "set another state_dir (BASTION_STATE_DIR)"
		if files.IsForeign(err) {
			next = "run the command as that user, without sudo"
		}
		return fail.New(fail.Other, "write what is trusted", err, next)
	}
	if err := files.PrivateDir(s.dir); err != nil {
		return wrong(err)
	}
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	path := filepath.Join(s.dir, storeName)
	lock, err := files.Lock(ctx, path+".lock")
	if err != nil {
		return wrong(err)
	}
	defer func() { _ = lock.Close() }()
	_, err = files.Update(path, maxStore, 0o600, func(old []byte) ([]byte, error) {
		in, err := parseStore(old)
		if err != nil {
			return nil, err
		}
		in.Files = edit(in.Files)
		data, err := json.MarshalIndent(in, "", "  ")
		return append(data, '\n'), err
	})
	if err != nil {
		return wrong(err)
	}
	return nil
}
