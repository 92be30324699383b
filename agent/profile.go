package agent

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
)

// profiles returns the profiles of the AWS configuration by which this process finds credentials: the one that is named, by a setting
// or else by variables, and those that it assumes its role from. An unreadable configuration has none: the SDK says why.
func profiles(ctx context.Context, name string) []awsconfig.SharedConfig {
	name = cmp.Or((*Env)(nil).profile(name), "default")
	files := func(o *awsconfig.LoadSharedConfigOptions) {
		if file := os.Getenv("AWS_CONFIG_FILE"); file != "" {
			o.ConfigFiles = []string{file}
		}
		if file := os.Getenv("AWS_SHARED_CREDENTIALS_FILE"); file != "" {
			o.CredentialsFiles = []string{file}
		}
	}
	first, err := awsconfig.LoadSharedConfigProfile(ctx, name, files)
	if quoted := inQuotes(err, name); quoted != "" {
		first, err = awsconfig.LoadSharedConfigProfile(ctx, quoted, files)
	}
	if err != nil {
		return nil
	}
	var out []awsconfig.SharedConfig
	for p := &first; p != nil; p = p.Source {
		out = append(out, *p)
	}
	return out
}

// inQuotes returns the name that the SDK may have for the profile name where err says that it has none of that name; "" otherwise. For
// a section [profile "dev"] the SDK takes the quotes as a part of the name; the AWS CLI does not.
func inQuotes(err error, name string) string {
	missing, ok := errors.AsType[awsconfig.SharedConfigProfileNotExistError](err)
	if !ok || missing.Profile != name || strings.Contains(name, `"`) {
		return "" // the missing one may be a source profile
	}
	return `"` + name + `"`
}

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
