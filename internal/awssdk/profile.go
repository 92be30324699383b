package awssdk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/bastion-ssm/bastion/internal/files"
)

// profiles returns the profiles of the AWS configuration by which this process finds credentials: the one that is named, by a setting
// or else by variables, and those that it assumes its role from. An unreadable configuration has none: the SDK says why.
func profiles(ctx context.Context, name string) []awsconfig.SharedConfig {
	env := (*Env)(nil)
	config, remove, _ := env.plainConfig() // without the copy: the SDK says what it misses
	defer remove()
	first, err := awsconfig.LoadSharedConfigProfile(ctx, cmp.Or(env.profile(name), "default"), func(o *awsconfig.LoadSharedConfigOptions) {
		o.ConfigFiles, o.CredentialsFiles = config, []string{env.credentialsFile()}
	})
	if err != nil {
		return nil
	}
	var out []awsconfig.SharedConfig
	for p := &first; p != nil; p = p.Source {
		out = append(out, *p)
	}
	return out
}

// configFile returns the name of the AWS configuration file.
func (e *Env) configFile() string {
	return cmp.Or(e.lookup(envConfigFile), os.Getenv(envConfigFile), awsconfig.DefaultSharedConfigFiles[0])
}

// credentialsFile returns the name of the AWS credentials file.
func (e *Env) credentialsFile() string {
	return cmp.Or(e.lookup(envCredentialsFile), os.Getenv(envCredentialsFile), awsconfig.DefaultSharedCredentialsFiles[0])
}

// quotedSection is the header of a section whose name is in quotes.
var quotedSection = regexp.MustCompile(`^[ \t]*\[[ \t]*(profile|sso-session|services)[ \t]+(?:"([^"#;]+)"|'([^'#;]+)')[ \t]*\][ \t\r]*([#;].*)?$`)

// anySection is the header of any section.
var anySection = regexp.MustCompile(`^[ \t]*\[.*\][ \t\r]*([#;].*)?$`)

// quotedSections returns those sections of an AWS configuration that have their names in quotes, with the names bare. For
// [profile "dev"] the SDK takes the quotes as a part of the name; the AWS CLI does not.
func quotedSections(text string) string {
	var out strings.Builder
	in := false
	for line := range strings.Lines(text) {
		bare := strings.TrimRight(line, "\r\n")
		if m := quotedSection.FindStringSubmatch(bare); m != nil {
			in, line = true, fmt.Sprintf("[%s %s]\n", m[1], cmp.Or(m[2], m[3]))
		} else if anySection.MatchString(bare) {
			in = false
		}
		if in {
			out.WriteString(line)
		}
	}
	return out.String()
}

// maxConfig limits what is looked at of an AWS configuration file, in bytes.
const maxConfig = 1 << 20

// readConfig returns the text of an AWS configuration file. One that cannot be read is empty, as to the SDK; a pipe is left to the
// SDK, because it can be read once.
func readConfig(path string) string {
	f, err := files.OpenRegular(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	text, err := files.ReadAll(f, maxConfig)
	if err != nil {
		return ""
	}
	return string(text)
}

// plainConfig returns the files of the AWS configuration as the SDK must read them. Where sections have their names in quotes, a
// second file has these with bare names, until the caller calls remove. Where that file cannot be written, err says why, and paths has
// the first one: most commands do without the quoted sections.
func (e *Env) plainConfig() (paths []string, remove func(), err error) {
	paths = []string{e.configFile()}
	quoted := quotedSections(readConfig(paths[0]))
	if quoted == "" {
		return paths, func() {}, nil
	}
	path, remove, err := privateCopy(quoted)
	if err != nil {
		return paths, func() {}, &uncopiedError{err}
	}
	return append(paths, path), remove, nil
}

// temporaryCopy writes text, which may have keys, to a file of mode 0600 that only the caller removes.
func temporaryCopy(text string) (path string, remove func(), err error) {
	f, err := os.CreateTemp("", "bastion-aws-config-*")
	if err != nil {
		return "", nil, err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", nil, err
	}
	return f.Name(), func() { _ = os.Remove(f.Name()) }, nil
}

// uncopiedError says why the SDK could not read the sections with quoted names.
type uncopiedError struct{ error }

func (e *uncopiedError) Error() string {
	return "copy the sections with quoted names: " + e.error.Error()
}

func (e *uncopiedError) Unwrap() error { return e.error }

// basedOnEnvironment reports whether a profile's role is assumed with the credentials of variables.
func basedOnEnvironment(ctx context.Context, profile string) bool {
	chain := profiles(ctx, profile)
	return len(chain) > 0 && chain[len(chain)-1].CredentialSource == "Environment"
}

// inUse returns the profiles by which this process finds credentials, unless variables have them.
func inUse(ctx context.Context, profile string) []awsconfig.SharedConfig {
	if profile == "" && cmp.Or(os.Getenv(envAccessKey), os.Getenv(envAccessKeyOld)) != "" {
		return nil
	}
	return profiles(ctx, profile)
}

// CredentialProgram returns the profile whose credential_process gives this process its credentials, if there is one.
func CredentialProgram(ctx context.Context, profile string) string {
	chain := inUse(ctx, profile)
	if len(chain) == 0 || chain[len(chain)-1].CredentialProcess == "" {
		return ""
	}
	return chain[len(chain)-1].Profile
}
