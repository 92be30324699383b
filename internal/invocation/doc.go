// Package invocation is one run of the command line: its streams and options, the settings that count for it, what it says and asks,
// and its way to AWS. The commands of cmd/bastion and of packages such as internal/admin share it, and none of it is any command's own.
package invocation
