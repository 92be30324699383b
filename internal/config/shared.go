package config

import "fmt"

// SharedPath begins the path of a shared configuration, which is no file: "ssm:/bastion/config".
const SharedPath = "ssm:"

// shared returns the text of the shared configuration. An error of the look-up itself is in opened.unread: commands go on without.
func (src Source) shared() (opened, error) {
	if src.Shared == nil {
		return opened{}, nil
	}
	bare := src
	bare.NoFile, bare.Shared, bare.Target = true, nil, Target{}
	s, err := Load(bare)
	if err != nil {
		return opened{}, err
	}
	found, err := src.Shared(s)
	if err != nil || found == nil {
		return opened{unread: err}, nil //nolint:nilerr // as the description says
	}
	found.Shared = true
	return opened{path: found.Path, data: found.Data, found: found}, nil
}

// UnreadError says that a name may be unknown only because the shared configuration could not be read. It has err's kind and hint.
func UnreadError(err error) error {
	return fmt.Errorf("there is no configuration file, and the shared one is not known: %w", err)
}

// FindShared returns the shared configuration that commands use where there is no project file; nil if there is none, or if another file
// counts.
func (src Source) FindShared() (*Found, error) {
	src.NoProject = true
	o, err := src.open(src.env())
	if err == nil {
		err = o.unread
	}
	if err != nil || o.found == nil {
		return nil, err
	}
	return o.found, nil
}

// CheckShared returns an error for what a shared configuration cannot give: a file of the reader's machine.
func (f *File) CheckShared() error {
	for _, g := range f.Given() {
		if g.Setting.path != nil && g.Setting.path(g.Text) {
			return fmt.Errorf("%s: %s: a shared configuration cannot name a file of this machine", g.Where, g.Key())
		}
	}
	return nil
}
