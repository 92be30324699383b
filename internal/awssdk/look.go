package awssdk

import (
	"context"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// Login is where this process has its credentials from, as far as the variables and the profiles say. It is for a diagnosis.
type Login struct {
	Profile string // in force; "default" if none is chosen but there is one of that name
	File    string // of the profiles
	Account string // that the profile is for; empty: it names none
	Process string // credential_process at the end of its chain; empty: none
	Legacy  bool   // the profile, or the one at the end of its chain, has single sign-on without an sso-session

	Set, Missing string // credential variables: what is set, and what lacks with it
	// Hides is the profile that a variable chooses and that Set hides. HidesFrom is the variable that chooses it.
	Hides, HidesFrom string
}

// Look returns the Login. profile is the setting's, or "".
func Look(ctx context.Context, profile string) Login {
	var env *Env
	l := Login{Profile: env.profile(profile), File: env.configFile()}
	if set, missing := env.incomplete(); l.Profile == "" && set != "" {
		l.Set, l.Missing = set, missing
	}
	for _, name := range []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"} {
		if value := os.Getenv(name); profile == "" && value != "" && env.Credentials().HasKeys() {
			l.Set, l.Hides, l.HidesFrom = envAccessKey, value, name
			break
		}
	}
	chain := env.profiles(ctx, profile)
	if len(chain) == 0 {
		return l
	}
	l.Profile = chain[0].Profile
	last := chain[len(chain)-1]
	l.Legacy = last.SSOStartURL != "" && last.SSOSessionName == ""
	l.Process = last.CredentialProcess
	l.Account = chain[0].SSOAccountID
	if role, err := arn.Parse(chain[0].RoleARN); err == nil {
		l.Account = role.AccountID
	}
	return l
}

// Endpoint returns the endpoint that the variables give a service, such as "ECS"; "" if they give it none.
func Endpoint(service string) string {
	if to := (&endpoints{}).of(service); to != nil {
		return to.String()
	}
	return ""
}
