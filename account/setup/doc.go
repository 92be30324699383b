// Package setup leads from an AWS account to a bastion that answers, as `bastion init` does. It joins what the packages below account
// can do: it looks at the account, asks what only a person knows, shows a plan, deploys the stack, pushes the image to the stack's
// repository, and writes the configuration file. Whatever was interrupted goes on when it is called again.
//
// It talks to a person only by the interface Person. Command-line matters are internal/admin's.
package setup
