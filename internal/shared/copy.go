package shared

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// Scope tells apart whose account and region a copy is of. The digest stands for a profile, a region, the AWS variables and the
// credentials among them, without secrets.
type Scope string

// NewScope returns the scope of a command. public are its AWS variables without secrets; accessKey is the id of the access key among its
// variables, if they have one.
func NewScope(profile, region, accessKey string, public map[string]string) Scope {
	hash := sha256.New()
	fmt.Fprintf(hash, "%q %q %q\n", profile, region, accessKey)
	for _, name := range slices.Sorted(maps.Keys(public)) {
		fmt.Fprintf(hash, "%q=%q\n", name, public[name])
	}
	return Scope(hex.EncodeToString(hash.Sum(nil)))
}

// Copy is the shared configuration as AWS last gave it.
type Copy struct {
	V        int       `json:"v"`
	Scope    Scope     `json:"scope"`
	Name     string    `json:"name"`
	Region   string    `json:"region"`
	ARN      string    `json:"arn,omitempty"`
	Text     string    `json:"text"`    // empty: the account has none
	Version  int64     `json:"version"` // of the parameter
	Secure   bool      `json:"secure,omitempty"`
	Modified time.Time `json:"modified,omitzero"`
	At       time.Time `json:"at,omitzero"` // when AWS answered; zero: it never did
	Tried    time.Time `json:"tried"`       // when AWS was last asked
	Failure  *Failure  `json:"failure,omitempty"`
}

// Failure is why AWS did not answer the last time.
type Failure struct {
	Kind fail.Kind `json:"kind"`
	Text string    `json:"text"`
	Next string    `json:"next,omitempty"`
}

func failureOf(err error) *Failure {
	return &Failure{fail.KindOf(err), err.Error(), fail.NextOf(err)}
}

// Err returns the failure as an error; nil for nil.
func (f *Failure) Err() error {
	if f == nil {
		return nil
	}
	return fail.New(f.Kind, "", errors.New(f.Text), f.Next)
}

// isRemote reports whether the failure is worth keeping. Missing credentials cost no time, and a login mends them at once.
func (f *Failure) isRemote() bool { return f.Kind != fail.Credentials && f.Kind != fail.Usage }

// err is the failure of a copy that has no text.
func (c Copy) err() error {
	if c.Text != "" {
		return nil
	}
	return c.Failure.Err()
}

// served reports whether AWS has said what the account has.
func (c Copy) served() bool { return !c.At.IsZero() }

// isFresh reports whether AWS need not be asked. A clock that was set back does not keep a copy for ever.
func (c Copy) isFresh(now time.Time) bool {
	age, limit := now.Sub(c.Tried), freshFor
	if c.Failure != nil && c.Failure.Kind != fail.Denied { // a denial is an answer
		limit = retryIn
	}
	return age >= 0 && age < limit
}

const (
	version  = 1
	prefix   = "shared-"
	maxFile  = 64 << 10
	keptFor  = 30 * 24 * time.Hour // without use
	fileMode = 0o600
)

// path is the copy's file.
func (r Reader) path() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", r.Scope, r.Name))
	return filepath.Join(r.Dir, prefix+hex.EncodeToString(sum[:12])+".json")
}

// load returns the copy. One that cannot be read, or that others could have written, is none: AWS is asked.
func (r Reader) load() (c Copy, ok bool) {
	text, err := files.ReadTrusted(r.path(), maxFile)
	if err != nil || json.Unmarshal(text, &c) != nil || c.V != version || c.Scope != r.Scope || c.Name != r.Name {
		return Copy{}, false
	}
	return c, true
}

// save keeps a copy. Where that fails the next command asks AWS again.
func (r Reader) save(c Copy) {
	c.V = version
	text, err := json.Marshal(c)
	if err != nil || files.PrivateDir(r.Dir) != nil || files.Replace(r.path(), text, fileMode) != nil {
		return
	}
	files.Sweep(r.Dir, files.Before(c.Tried.Add(-keptFor)), prefix)
}

// Forget removes the copy, so that the next command asks AWS.
func (r Reader) Forget() error {
	if err := os.Remove(r.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail.New(fail.Other, "forget the copy of the shared configuration", err, "remove "+r.path())
	}
	return nil
}
