package browser

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// Profile is a browser's state directory. A running bastion browser holds its lock.
type Profile struct {
	Dir   string
	lock  *os.File // nil: another bastion browser holds it
	fresh bool
}

// InUse reports whether another bastion browser holds the profile.
func (p *Profile) InUse() bool { return p.lock == nil }

// log returns the path of the browser's log, beside the profile. A browser that already runs has its own log.
func (p *Profile) log() string {
	if p.InUse() {
		return os.DevNull
	}
	return p.Dir + ".log"
}

// OpenProfile opens a browser's profile and creates it if needed. fresh makes a new one for a single run.
func OpenProfile(b *Browser, stateDir string, fresh bool) (*Profile, error) {
	base, err := profileBase(b, stateDir)
	if err != nil {
		return nil, err
	}
	wrong := func(err error) (*Profile, error) {
		return nil, fail.New(fail.Other, "make the browser's profile", err, "check "+base+", or set another state_dir")
	}
	if err := files.PrivateDir(base); err != nil {
		return wrong(err)
	}
	removeStale(base)
	p := &Profile{Dir: filepath.Join(base, b.name), fresh: fresh}
	if fresh {
		if p.Dir, err = os.MkdirTemp(base, freshPrefix); err != nil {
			return wrong(err)
		}
	} else if err := files.PrivateDir(p.Dir); err != nil {
		return wrong(err)
	}
	if p.lock, err = files.TryLock(p.Dir + lockSuffix); err != nil {
		return wrong(err)
	}
	return p, nil
}

const (
	freshPrefix = "fresh-"
	lockSuffix  = ".lock"
)

// profileBase returns the directory of the profiles. A snap's browser may not use hidden directories in the user's home.
func profileBase(b *Browser, stateDir string) (string, error) {
	if rest, ok := strings.CutPrefix(b.Program, "/snap/bin/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fail.New(fail.Other, "find the browser's profile", err, "set HOME")
		}
		return filepath.Join(home, "snap", rest, "common", "bastion"), nil
	}
	state, err := dirs.State(stateDir)
	return filepath.Join(state, "browser"), err
}

// Close removes a fresh profile. The lock file of a permanent one stays: removing it would let two processes hold locks of the
// same name.
func (p *Profile) Close() error {
	var err error
	if p.fresh && !p.InUse() {
		err = removeFresh(p.Dir)
	}
	if p.lock != nil {
		_ = p.lock.Close()
	}
	return err
}

// removeFresh removes a fresh profile with its log and lock. The browser's processes may write to it until they have noticed
// its end.
func removeFresh(dir string) error {
	var err error
	for range 10 {
		if err = os.RemoveAll(dir); err == nil {
			break
		}
	}
	_ = os.Remove(dir + ".log")
	_ = os.Remove(dir + lockSuffix) // each fresh profile's name is unique
	return err
}

// removeStale removes fresh profiles of killed bastion browsers.
func removeStale(base string) {
	const young = time.Minute // it may exist without its lock yet
	locks, err := filepath.Glob(filepath.Join(base, freshPrefix+"*"+lockSuffix))
	if err != nil {
		return
	}
	for _, path := range locks {
		if info, err := os.Stat(path); err != nil || time.Since(info.ModTime()) < young {
			continue
		}
		if lock, err := files.TryLock(path); err == nil && lock != nil {
			_ = removeFresh(strings.TrimSuffix(path, lockSuffix))
			_ = lock.Close()
		}
	}
}
