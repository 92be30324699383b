// Package targetlist keeps the list of a region's targets in the state directory, so that bastion ls targets and completion need no
// call. Each scope has a list of its own: an environment, a profile or credentials of variables, and a region. A list has no secrets;
// its file is readable for its user alone.
package targetlist

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// Fresh is how long a list serves instead of AWS's answers.
const Fresh = time.Hour

// maxFile bounds a file: 20,000 targets of 400 bytes.
const maxFile = 8 << 20

// version is that of the file's form. Lists of other versions are not read.
const version = 1

// Item is a target of a list.
type Item struct {
	Spec   string            `json:"spec"`
	Kind   string            `json:"kind,omitempty"`   // its prefix: "rds"
	Engine string            `json:"engine,omitempty"` // AWS's name
	Status string            `json:"status,omitempty"` // AWS's word
	Host   string            `json:"host,omitempty"`   // with its port, if AWS names one
	Tags   map[string]string `json:"tags,omitempty"`
}

// Has reports whether the item is of one of the kinds, if there are any, and has all of the tags.
func (i Item) Has(kinds []string, tags map[string]string) bool {
	if len(kinds) > 0 && !slices.Contains(kinds, i.Kind) {
		return false
	}
	for key, want := range tags {
		if have, ok := i.Tags[key]; !ok || have != want {
			return false
		}
	}
	return true
}

// Problem is what AWS did not list.
type Problem struct {
	Kind fail.Kind `json:"kind"`
	Text string    `json:"text"`
	Next string    `json:"next,omitempty"`
}

// List is a list of targets.
type List struct {
	V       int       `json:"v"`
	Scope   Scope     `json:"scope"`
	Account string    `json:"account,omitempty"` // for the reader; empty: unknown
	At      time.Time `json:"at"`
	Items   []Item    `json:"targets"`
	Problem *Problem  `json:"problem,omitempty"` // nil: the list is whole
}

// Missing returns what a list that was made with err lacks; nil for nil.
func Missing(err error) *Problem {
	if err == nil {
		return nil
	}
	return &Problem{Kind: fail.KindOf(err), Text: err.Error(), Next: fail.NextOf(err)}
}

// Err returns the error that says what the list lacks; nil if it is whole.
func (l *List) Err() error {
	if l.Problem == nil {
		return nil
	}
	return fail.New(l.Problem.Kind, "", errors.New(l.Problem.Text), l.Problem.Next)
}

// Scope tells lists apart.
type Scope struct {
	Environment string `json:"environment,omitempty"`
	Profile     string `json:"profile,omitempty"`
	Region      string `json:"region,omitempty"` // as far as settings and variables name it
	// Source is a digest of everything else that decides whose list it is: the variables of the AWS SDKs without secrets, and when
	// the files of profiles were written.
	Source string `json:"source"`
}

// NewScope returns the scope of a command. public are the variables of the AWS SDKs without secrets; profiles are the files of the
// profiles, which need not exist.
func NewScope(environment, profile, region string, public map[string]string, profiles ...string) Scope {
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(public)) {
		fmt.Fprintf(hash, "%q=%q\n", name, public[name])
	}
	for _, path := range profiles {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(hash, "%q %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
	}
	return Scope{Environment: environment, Profile: profile, Region: region, Source: hex.EncodeToString(hash.Sum(nil))}
}

// path returns the scope's file in a state directory.
func (s Scope) path(dir string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", s.Environment, s.Profile, s.Region, s.Source))
	return filepath.Join(dir, prefix+hex.EncodeToString(sum[:12])+".json")
}

const prefix = "targets-"

// Load returns the scope's list. ok is false if there is none, or none that can be read: the caller then asks AWS.
func Load(dir string, s Scope) (list List, ok bool) {
	text, err := files.ReadTrusted(s.path(dir), maxFile)
	if err != nil || json.Unmarshal(text, &list) != nil || list.V != version || list.Scope != s {
		return List{}, false
	}
	return list, true
}

// kept is how long an unused list stays.
const kept = 30 * 24 * time.Hour

// Save keeps a list in a state directory, and removes lists that nobody has renewed for 30 days.
func Save(dir string, list List) error {
	list.V = version
	text, err := json.Marshal(list)
	if err == nil {
		err = files.Replace(list.Scope.path(dir), text, 0o600)
	}
	if err != nil {
		return fail.New(fail.Other, "keep the list of targets", err, "")
	}
	files.Sweep(dir, files.Before(list.At.Add(-kept)), prefix)
	return nil
}

// Age returns how old the list is, at least 0.
func (l *List) Age(now time.Time) time.Duration { return max(now.Sub(l.At), 0) }

// AgeText formats an age for people: "12 minutes".
func AgeText(age time.Duration) string {
	n, unit := int(age/time.Second), "second"
	switch {
	case age >= 48*time.Hour:
		n, unit = int(age/(24*time.Hour)), "day"
	case age >= 2*time.Hour:
		n, unit = int(age/time.Hour), "hour"
	case age >= 2*time.Minute:
		n, unit = int(age/time.Minute), "minute"
	}
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

// ParseTag reads KEY=VALUE.
func ParseTag(text string) (key, value string, err error) {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return "", "", fmt.Errorf("%q is not KEY=VALUE", text)
	}
	return key, value, nil
}

// Sort sorts items by their specs.
func Sort(items []Item) {
	slices.SortFunc(items, func(x, y Item) int { return cmp.Compare(x.Spec, y.Spec) })
}
