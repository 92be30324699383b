package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// IdentityConfig says what a caller may do, and when its credentials expire. The zero value has the policy that package account makes
// for people, and may sign in to the databases.
type IdentityConfig struct {
	Deny []string `json:"deny,omitempty"` // patterns of actions that are denied besides: "ecs:RunTask", "rds:*"
	// Allow are patterns of actions that are allowed on anything, in place of that policy: "*" for an administrator.
	Allow []string `json:"allow,omitempty"`
	// Policy is a policy document in place of that policy and of Allow.
	Policy json.RawMessage `json:"policy,omitempty"`
	// Expires makes the credentials those of a role's session, valid until then. It may be in the past.
	Expires time.Time `json:"expires,omitzero"`
	// Process keeps the credentials out of the AWS files. The profile there runs a command for them (credential_process), as tools
	// for single sign-on set it up. The command prints new credentials once they exist.
	Process bool `json:"process,omitempty"`
}

// profile is a section of the AWS files.
type profile struct {
	name     string
	identity awsapi.Identity
	process  bool // the credentials come from a command
	region   string
}

// withProfile returns profiles with p, in place of one of the same name.
func withProfile(profiles []profile, p profile) []profile {
	i := slices.IndexFunc(profiles, func(old profile) bool { return old.name == p.name })
	if i < 0 {
		return append(profiles, p)
	}
	profiles[i] = p
	return profiles
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,64}$`)

// AddIdentity adds a caller. An existing name gets new credentials and rights; its old credentials keep their rights. It returns
// the environment for a program with this identity.
func (l *Lab) AddIdentity(name string, cfg IdentityConfig) (env []string, err error) {
	id, err := l.newIdentity(name, cfg)
	if err != nil {
		return nil, err
	}
	if err := l.admit(id, cfg); err != nil {
		return nil, fmt.Errorf("add identity %s: %w", name, err)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.profiles = withProfile(l.profiles, profile{name, id, cfg.Process, l.region})
	if err := l.writeAWSFiles(); err != nil {
		return nil, fmt.Errorf("add identity %s: %w", name, err)
	}
	return l.envFor(name), nil
}

// newIdentity makes the credentials of a caller: a user's, or temporary ones if they expire.
func (s site) newIdentity(name string, cfg IdentityConfig) (awsapi.Identity, error) {
	switch {
	case !namePattern.MatchString(name):
		return awsapi.Identity{}, fmt.Errorf("%q is not a name for an identity: up to 64 letters, digits, and . _ @ -", name)
	case cfg.Expires.IsZero():
		return s.userIdentity(name), nil
	}
	return s.temporaryIdentity("lab-"+name, name, cfg.Expires), nil
}

// admit lets an identity in, with rights in this lab.
func (l *Lab) admit(id awsapi.Identity, cfg IdentityConfig) (err error) {
	id.Deny, id.Ledger = cfg.Deny, &l.permissions.ledger
	if id.Policies, err = l.permissions.of(cfg); err == nil {
		l.identities.Put(id)
	}
	return err
}

// Env returns the environment of a program that uses the lab as its AWS, with the identity "lab" and the rights of Config.User. The
// credentials are in files, and worthless elsewhere.
func (l *Lab) Env() []string { return l.envFor("lab") }

func (l *Lab) envFor(name string) []string {
	return append(filesEnv(l.url, l.dir),
		"AWS_REGION="+l.region,
		"AWS_DEFAULT_REGION="+l.region, // the AWS CLI before 2.13 reads only this one
		"AWS_PROFILE="+name,
	)
}

// filesEnv returns the environment for the AWS files of dir, without a profile.
func filesEnv(url, dir string) []string {
	return []string{
		"AWS_ENDPOINT_URL=" + url,
		"AWS_CONFIG_FILE=" + filepath.Join(dir, "aws-config"),
		"AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(dir, "aws-credentials"),
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_PAGER=",
	}
}

// Environ returns base with the lab as its AWS. It removes base's own AWS_ variables, which would win over the files.
func (l *Lab) Environ(base []string) []string {
	var env []string
	for _, kv := range base {
		if key, _, _ := strings.Cut(kv, "="); !strings.HasPrefix(strings.ToUpper(key), "AWS_") {
			env = append(env, kv)
		}
	}
	return append(env, l.Env()...)
}

// writeAWSFiles writes the shared config and credentials files. Callers hold the lock.
func (l *Lab) writeAWSFiles() error {
	return writeAWSFiles(l.dir, l.profiles, l.identityCenter.profiles(l.profiles))
}

// writeAWSFiles writes the AWS files of profiles into dir. more are further sections of the configuration.
func writeAWSFiles(dir string, profiles []profile, more string) error {
	var config, credentials strings.Builder
	const note = "# Written by bastion-lab. These credentials are made up: they open a lab on this machine and " +
		"nothing else.\n"
	config.WriteString(note)
	credentials.WriteString(note)
	for _, p := range profiles {
		fmt.Fprintf(&config, "\n[profile %s]\nregion = %s\n", p.name, p.region)
		if p.process {
			path := filepath.Join(dir, "credentials-"+p.name+".json")
			fmt.Fprintf(&config, "credential_process = %s \"%s\"\n", printCommand(), path)
			if err := replaceFile(path, p.output(), 0o600); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(&credentials, "\n[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n",
			p.name, p.identity.AccessKey, p.identity.SecretKey)
		if p.identity.SessionToken != "" {
			fmt.Fprintf(&credentials, "aws_session_token = %s\n", p.identity.SessionToken)
		}
	}
	config.WriteString(more)
	return errors.Join(
		replaceFile(filepath.Join(dir, "aws-config"), config.String(), 0o600),
		replaceFile(filepath.Join(dir, "aws-credentials"), credentials.String(), 0o600),
	)
}

// output returns the output of a credential_process.
func (p *profile) output() string {
	out := struct {
		Version                                    int
		AccessKeyId, SecretAccessKey, SessionToken string
		Expiration                                 *time.Time `json:",omitempty"`
	}{Version: 1, AccessKeyId: p.identity.AccessKey, SecretAccessKey: p.identity.SecretKey, SessionToken: p.identity.SessionToken}
	if t := p.identity.Expires; !t.IsZero() {
		out.Expiration = &t
	}
	text, err := json.Marshal(out) //nolint:gosec // made up, and what the command is for
	if err != nil {
		panic("lab: " + err.Error()) // a fixed type
	}
	return string(text) + "\n"
}

// printCommand returns a command that prints a file, for the shell that AWS's tools use for a credential_process.
func printCommand() string {
	if runtime.GOOS == "windows" {
		return "type"
	}
	return "cat"
}

// replaceFile writes a file so that a reader sees the old text or the new, never a part.
func replaceFile(path, text string, perm fs.FileMode) error {
	if runtime.GOOS == "windows" { // cannot replace a file that another process reads
		return os.WriteFile(path, []byte(text), perm)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), perm); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
