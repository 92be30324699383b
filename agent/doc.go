// Package agent composes the product: it loads the AWS configuration, finds or starts the bastion, hands over a grant, opens
// the session and gives the byte stream to a tunnel.Link. Package daemon uses it in the agent process and, with --no-agent, in the command's own.
// Commands without forwards, such as up and status, use it directly.
//
// There are two ways to a bastion, both tunnel.Connectors. One is a task with bastiond, which trusts the ephemeral key that a
// grant brings by ECS Exec and tells its host key by the same way. The other is a plain OpenSSH server behind an SSM target,
// with a pinned host key and a key of the user's.
//
// # Sessions come and go
//
// To bastiond the stream is a bond of SSM sessions (see package sessions/bond), which lasts as long as one of them can be
// replaced. The Agent opens them, has them replaced when the AWS credentials are, has them looked at when the machine wakes or its
// network changes, tells of the time without any, and ends that time when the task turns out to have stopped. An OpenSSH server
// knows no bonds: there a tunnel.Pool spreads connections over several SSH connections with a session each.
//
// Other processes see all that: each Agent with a link answers GET /v1/links on a socket in the runtime directory, and
// Processes asks all of them.
//
// # Time to the first byte
//
// ECS Exec's agent starts the command at once but reads its output only a second later. The bastion's answer therefore says
// late what was true early. Its host key stays the same for the life of the task: where it is remembered (see hostKeys), the
// session is opened while the grant is still on its way, and the answer is awaited, and compared, behind the connection. Where it is
// not, the grant carries a secret by which the bastion proves its host key on that connection: docs/adr/0006-first-contact.md.
// bastiond lets a key that it does not know yet wait for its grant.
package agent
