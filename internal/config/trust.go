package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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
	In      string // the part of the file: "environments.NAME", "targets.NAME" or both; "": the file itself
}

// Key is the setting's place in the file.
func (g Given) Key() string {
	if g.In == "" {
		return g.Setting.Key
	}
	return g.In + "." + g.Setting.Key
}

// NeedsTrust reports whether a project file may give the setting only once it is trusted. A default value needs no trust.
func (g Given) NeedsTrust() bool { return g.Setting.Trust != Project && g.Text != g.Setting.Default }

// Given returns the settings in the file, in its environments and in its targets, each in the table's order.
func (f *File) Given() []Given {
	out := append(givenIn("", f.values), givenInTargets("", f.Targets)...)
	for _, name := range f.Names() {
		env := f.Environments[name]
		in := "environments." + name
		out = append(append(out, givenIn(in, env.values)...), givenInTargets(in+".", env.Targets)...)
	}
	return out
}

func givenIn(in string, values map[string]value) []Given {
	var out []Given
	for _, s := range table {
		if v, ok := values[s.Key]; ok {
			out = append(out, Given{Setting: s, Text: v.text, Where: v.where, In: in})
		}
	}
	return out
}

func givenInTargets(prefix string, targets map[string]Target) []Given {
	var out []Given
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		out = append(out, givenIn(prefix+"targets."+name, targets[name].own)...)
	}
	return out
}

// counting returns the settings of the file that count in an environment, which may be nil, and for a target. A target's own settings
// count only in commands for the target.
func (f *File) counting(env *Environment, target Target) []Given {
	values := make(map[string]value)
	maps.Copy(values, f.values)
	in := make(map[string]string)
	if env != nil {
		for key, v := range env.values {
			values[key], in[key] = v, "environments."+env.Name
		}
	}
	for key, v := range target.own {
		values[key], in[key] = v, "targets."+target.Name
	}
	out := givenIn("", values)
	for i := range out {
		out[i].In = in[out[i].Setting.Key]
	}
	return out
}

// allowed returns an error if an untrusted project file gives settings that need trust, in itself, in the environment in force or for
// the target of the command. overridden reports settings whose value in the file does not count anyway. Ignoring the settings instead
// would run a command with half of its configuration.
func (f *File) allowed(env *Environment, target Target, overridden func(*Setting) bool) error {
	if f.found == nil {
		return nil
	}
	var wants []string
	for _, g := range f.counting(env, target) {
		if g.NeedsTrust() && !overridden(g.Setting) {
			wants = append(wants, fmt.Sprintf("%s: %s: %q", g.Where, g.Key(), g.Text))
		}
	}
	if len(wants) == 0 {
		return nil
	}
	what, agree := "this file was found by its place", "bastion trust "+display(f.found.Path)+" shows what the file wants and lets you agree to it"
	if f.found.Shared {
		what, agree = "this is the account's shared configuration", "bastion trust shows what it wants and lets you agree to it"
	}
	why := what + ", and you have not trusted it"
	if f.changed {
		why = what + ", and has changed since you trusted it"
	}
	return fail.New(fail.Usage, "", fmt.Errorf("%s (%s)", strings.Join(wants, "; "), why), agree)
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

// Store has the file of trusted project files, and that of used environments. Only flags, variables and the default choose its
// directory: a configuration file cannot.
type Store struct{ dir string }

const (
	storeName    = "trusted.json"
	storeVersion = 1       // of both files
	maxStore     = 1 << 20 // bytes
	// storeWait bounds the wait for another bastion trust or use that is writing the file.
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
	var in stored
	if err := s.read("read what is trusted", storeName, "trust your files anew, with bastion trust", &in, &in.V); err != nil {
		return nil, err
	}
	slices.SortFunc(in.Files, func(x, y Record) int { return strings.Compare(x.Path, y.Path) })
	return in.Files, nil
}

// read reads a file of the directory into a struct with the version v; a missing file leaves it as it is. op, and anew in a hint, are
// for errors.
func (s Store) read(op, name, anew string, into any, v *int) error {
	path := filepath.Join(s.dir, name)
	data, err := readFile(path, files.OpenTrusted)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = decode(data, into, v)
	}
	if err != nil {
		next := "remove " + path + " and " + anew
		if u, ok := errors.AsType[*files.UntrustedError](err); ok && u.Fix != "" {
			next = u.Fix + "; if others may have written there, " + next
		}
		return fail.New(fail.Usage, op, err, next)
	}
	return nil
}

// decode decodes the text of a file into a struct with the version v. No text is an empty file of this version.
func decode(data []byte, into any, v *int) error {
	*v = storeVersion
	if len(data) == 0 {
		return nil
	}
	err := json.Unmarshal(data, into)
	if err == nil && *v != storeVersion {
		err = fmt.Errorf("it is of version %d", *v)
	}
	return err
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
	return s.update(ctx, "write what is trusted", storeName, func(old []byte) (any, error) {
		var in stored
		if err := decode(old, &in, &in.V); err != nil {
			return nil, err
		}
		in.Files = edit(in.Files)
		return in, nil
	})
}

// update replaces a file of the directory by what edit makes of its text, under its lock. op describes that in errors.
func (s Store) update(ctx context.Context, op, name string, edit func(old []byte) (any, error)) error {
	wrong := func(err error) error {
		next := "set another state_dir (BASTION_STATE_DIR)"
		if files.IsForeign(err) {
			next = "run the command as that user, without sudo"
		}
		return fail.New(fail.Other, op, err, next)
	}
	if err := files.PrivateDir(s.dir); err != nil {
		return wrong(err)
	}
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	path := filepath.Join(s.dir, name)
	lock, err := files.Lock(ctx, path+".lock")
	if err != nil {
		return wrong(err)
	}
	defer func() { _ = lock.Close() }()
	if _, err := files.Update(path, maxStore, 0o600, func(old []byte) ([]byte, error) {
		edited, err := edit(old)
		if err != nil {
			return nil, err
		}
		data, err := json.MarshalIndent(edited, "", "  ")
		return append(data, '\n'), err
	}); err != nil {
		return wrong(err)
	}
	return nil
}
