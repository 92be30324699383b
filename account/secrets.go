package account

import "github.com/bastion-ssm/bastion/internal/pattern"

// Secret is a secret of Secrets Manager, or a field of one, that ECS hands to a task when it starts it. Whoever enters the task can read
// it.
type Secret struct {
	Variable string // of the task's environment; not one that bastiond or AWS's software reads
	ARN      string // of the secret, whole: with the six characters at its end
	Field    string // of a secret that is JSON; empty: all of it
	Key      string // ARN of the KMS key that encrypts it; empty: AWS's own
}

var (
	variableForm = pattern.Lazy(`^[A-Z][A-Z0-9_]{0,127}$`)
	ownVariables = pattern.Lazy(`^(AWS_|ECS_|BASTIOND_|GO)`)
	secretForm   = pattern.Lazy(`^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+-[A-Za-z0-9]{6}$`)
	fieldForm    = pattern.Lazy(`^[A-Za-z0-9_-]*$`)
	keyForm      = pattern.Lazy(`^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$`)
)

// validateSecrets checks what Validate checks of the secrets.
func (in Inputs) validateSecrets(check func(ok bool, format string, args ...any)) {
	variables := make(map[string]bool)
	for _, secret := range in.Secrets {
		check(variableForm().MatchString(secret.Variable) && !ownVariables().MatchString(secret.Variable) && !variables[secret.Variable],
			"secret's variable %q: want one of its own in capitals, which does not begin with AWS_, ECS_, BASTIOND_ or GO", secret.Variable)
		check(secretForm().MatchString(secret.ARN), "secret %q: want its whole ARN, arn:...:secretsmanager:...:secret:NAME-XXXXXX", secret.ARN)
		check(fieldForm().MatchString(secret.Field), "field %q of a secret: want letters, digits, - and _", secret.Field)
		check(secret.Key == "" || keyForm().MatchString(secret.Key), "key %q of a secret: want the ARN of a KMS key", secret.Key)
		variables[secret.Variable] = true
	}
}

// secrets are the secrets as a container definition has them: an ARN, and a field of what is JSON.
func (s *Stack) secrets() (l List) {
	for _, secret := range s.Inputs.Secrets {
		from := secret.ARN
		if secret.Field != "" {
			from += ":" + secret.Field + "::"
		}
		l = append(l, Object{{"Name", secret.Variable}, {"ValueFrom", from}})
	}
	return l
}
