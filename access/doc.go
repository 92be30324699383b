// Package access is the user's way into a private network: it finds or starts the bastion, hands over a grant, opens the sessions and
// gives the byte stream to a tunnel.Link. Package agent uses it, in the agent's process and, with --no-agent, in the command's own.
// Commands without forwards, such as up and status, use it directly.
//
// There are two ways to a bastion, both tunnel.Connectors. One is a task with bastiond, which trusts the ephemeral key that a
// grant brings by ECS Exec and tells its host key by the same way. The other is a plain OpenSSH server behind an SSM target,
// with a pinned host key and a key of the user's.
//
// # Sessions come and go
//
// To bastiond the stream is a bond of SSM sessions (see package sessions/bond), which lasts as long as one of them can be
// replaced. The Access opens them, has them replaced when the AWS credentials are, has them looked at when the machine wakes or its
// network changes, tells of the time without any, and ends that time when the task turns out to have stopped. An OpenSSH server
// knows no bonds: there a tunnel.Pool spreads connections over several SSH connections with a session each.
//
// Other processes see all that: each Access with a link answers GET /v1/links on a socket in the runtime directory, and
// Processes asks all of them.
//
// # Time to the first byte
//
// ECS Exec's agent starts the command at once but reads its output only a second later. The bastion's answer therefore says
// late what was true early. Its host key stays the same for the life of the task: where it is remembered (see hostKeys), the
// session is opened while the grant is still on its way, and the answer is awaited, and compared, behind the connection. Where it is
// not, the grant carries a secret by which the bastion proves its host key on that connection: docs/adr/0006-first-contact.md.
// bastiond lets a key that it does not know yet wait for its grant.
//
// # Where things are
//
// An Access (access.go) has the AWS clients of one account and region. Its Pool (pool.go) has the SSH connections of a link, each a
// tunnel.Link whose connector leads to bastiond (task.go) or to a plain sshd (sshd.go). The way to bastiond: ensure.go starts the task,
// admission.go has the key that it accepts, grant.go hands the grant over and renews it, contact.go proves its host key, port.go and
// documents.go open a session, bond.go a bond of them. gone.go decides whether a bastion that has ended is worth another.
package access
