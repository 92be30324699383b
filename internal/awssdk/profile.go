package awssdk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// defaultProfile is the profile that counts if neither a setting nor a variable names one.
const defaultProfile = "default"

// chain returns the profile that gives the credentials, chosen by the setting or else the variables, and its chain of source
// profiles.
func (e *Env) chain(ctx context.Context, name string) ([]awsconfig.SharedConfig, error) {
	config, remove, _ := e.plainConfig() // an error here is the SDK's to report
	defer remove()
	first, err := awsconfig.LoadSharedConfigProfile(ctx, cmp.Or(e.profile(name), defaultProfile), func(o *awsconfig.LoadSharedConfigOptions) {
		o.ConfigFiles, o.CredentialsFiles = config, []string{e.credentialsFile()}
	})
	if err != nil {
		return nil, err
	}
	var out []awsconfig.SharedConfig
	for p := &first; p != nil; p = p.Source {
		out = append(out, *p)
	}
	return out, nil
}

// isDefault reports whether err says that the default profile does not exist and no profile was named: a machine without AWS files.
func isDefault(err error, named string) bool {
	missing, ok := errors.AsType[awsconfig.SharedConfigProfileNotExistError](err)
	return ok && named == "" && missing.Profile == defaultProfile
}

// profiles is chain for a caller that leaves an unreadable configuration's error to the SDK.
func (e *Env) profiles(ctx context.Context, name string) []awsconfig.SharedConfig {
	chain, err := e.chain(ctx, name)
	if err != nil {
		return nil
	}
	return chain
}

// configFile returns the path of the AWS configuration file.
func (e *Env) configFile() string {
	return cmp.Or(e.lookup(envConfigFile), os.Getenv(envConfigFile), awsconfig.DefaultSharedConfigFiles[0])
}

// credentialsFile returns the path of the AWS credentials file.
func (e *Env) credentialsFile() string {
	return cmp.Or(e.lookup(envCredentialsFile), os.Getenv(envCredentialsFile), awsconfig.DefaultSharedCredentialsFiles[0])
}

// quotedSection matches a section header with a quoted name.
var quotedSection = pattern.Lazy(`^[ \t]*\[[ \t]*(profile|sso-session|services)[ \t]+(?:"([^"#;]+)"|'([^'#;]+)')[ \t]*\][ \t\r]*([#;].*)?$`)

// anySection matches any section header.
var anySection = pattern.Lazy(`^[ \t]*\[.*\][ \t\r]*([#;].*)?$`)

// quotedSections returns the sections of an AWS configuration with quoted names, without the quotes. For [profile "dev"], the
// SDK takes the quotes as part of the name; the AWS CLI does not.
func quotedSections(text string) string {
	var out strings.Builder
	in := false
	for line := range strings.Lines(text) {
		bare := strings.TrimRight(line, "\r\n")
		if m := quotedSection().FindStringSubmatch(bare); m != nil {
			in, line = true, fmt.Sprintf("[%s %s]\n", m[1], cmp.Or(m[2], m[3]))
		} else if anySection().MatchString(bare) {
			in = false
		}
		if in {
			out.WriteString(line)
		}
	}
	return out.String()
}

// maxConfig bounds the part of an AWS configuration file that is read, in bytes.
const maxConfig = 1 << 20

// readConfig returns the text of an AWS configuration file. Like the SDK, it treats an unreadable file as empty. It leaves a
// pipe to the SDK, because a pipe can be read only once.
func readConfig(path string) string {
	text, err := files.Read(path, maxConfig)
	if err != nil {
		return ""
	}
	return string(text)
}

// plainConfig returns the paths of the AWS configuration for the SDK. If sections have quoted names, a second file has them
// without quotes until the caller calls remove. If that file cannot be written, plainConfig returns an error with the first
// path only: most commands do not need the quoted sections.
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

// basedOnEnvironment reports whether a profile's role is assumed with the variables' credentials.
func basedOnEnvironment(ctx context.Context, profile string) bool {
	chain := (*Env)(nil).profiles(ctx, profile)
	return len(chain) > 0 && chain[len(chain)-1].CredentialSource == "Environment"
}

// inUse returns the profiles that give the credentials; nil if the variables have credentials.
func (e *Env) inUse(ctx context.Context, profile string) []awsconfig.SharedConfig {
	if profile == "" && e.Credentials().AccessKeyID != "" {
		return nil
	}
	return e.profiles(ctx, profile)
}

// CredentialProgram returns the profile whose credential_process gives this process its credentials; "" if none does.
func CredentialProgram(ctx context.Context, profile string) string {
	chain := (*Env)(nil).inUse(ctx, profile)
	if len(chain) == 0 || chain[len(chain)-1].CredentialProcess == "" {
		return ""
	}
	return chain[len(chain)-1].Profile
}
