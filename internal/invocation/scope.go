package invocation

import (
	"cmp"
	"context"
	"maps"
	"os"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/lookup"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
)

// AgentScope is what the agent must know to act for this command. Settings that have their defaults are left out: an agent that is older
// or newer than this command need not know them.
func AgentScope(s config.Settings) api.Scope {
	texts := s.Texts()
	if defaults, err := config.FromTexts(nil); err == nil {
		usual := defaults.Texts()
		maps.DeleteFunc(texts, func(key, text string) bool { return text == usual[key] })
	}
	return api.Scope{Settings: texts, Env: awssdk.RelevantEnv(os.Environ())}
}

// LookupScope is the scope of this command, as far as its settings and variables name it.
func (in *Invocation) LookupScope(s config.Settings) lookup.Scope {
	env := awssdk.RelevantEnv(os.Environ())
	m := lookup.Scope{
		Environment: s.Environment, Profile: s.AWS.Profile,
		Region: cmp.Or(s.AWS.Region, env["AWS_REGION"], env["AWS_DEFAULT_REGION"]),
	}
	if m.Profile == "" {
		m.ByVariables = awssdk.NewEnv(env).Credentials().HasKeys()
		if !m.ByVariables {
			m.Profile = cmp.Or(env["AWS_PROFILE"], env["AWS_DEFAULT_PROFILE"])
		}
	}
	m.IsTarget = func(text string) bool {
		_, _, err := request.Parse([]string{text}, nil, s, nil)
		return err == nil
	}
	var region, owner string
	m.WhoAmI = func(ctx context.Context) (string, string, error) {
		if region != "" {
			return region, owner, nil
		}
		err := in.Ask(ctx, "", s, func(ctx context.Context, run *Session) (err error) {
			if m.ByVariables {
				owner, err = run.Access.Owner(ctx)
			}
			if err == nil {
				region = run.Access.Region()
			}
			return err
		})
		return region, owner, err
	}
	return m
}
