// Package access leads the user into a private network. It finds or starts the bastion, hands over a grant, opens the sessions,
// and gives the byte stream to a tunnel.Link. Package agent uses it, in the agent's process and, with --no-agent, in the
// command's own. Commands without forwards, such as up and status, use it directly.
//
// There are two ways to a bastion, both tunnel.Connectors. One leads to bastiond in a task. A grant, sent by ECS Exec, makes
// bastiond trust an ephemeral key, and its answer brings bastiond's host key. The other leads to a plain OpenSSH server behind
// an SSM target, with a pinned host key and the user's own key.
//
// # Sessions come and go
//
// To bastiond the stream is a bond of SSM sessions (see package sessions/bond). It lasts as long as one session can be
// replaced. The Access opens the sessions and replaces them when the AWS credentials change. It probes them when the machine
// wakes or its network changes. It reports the time without a path, and ends that time when the task has stopped. An OpenSSH
// server knows no bonds: there a tunnel.Pool spreads connections over several SSH connections, each over its own session.
//
// Links returns this state. The agent serves it by its API, and a command without the agent by a call of that API (Options.Show).
//
// # Time to the first byte
//
// ECS Exec's agent starts the command at once but reads its output only a second later, so the bastion's answer comes late. The
// host key stays the same for the task's life. If the Access remembers it (see hostKeys), it opens the session while the grant
// is on its way. It compares the answer once it comes. Otherwise the grant carries a secret by which the bastion proves its
// host key on that connection: docs/adr/0006-first-contact.md. bastiond lets a key without a grant wait for its grant.
//
// # Where things are
//
// An Access (access.go) has the AWS clients of one account and region. Its Pool (pool.go) has a link's SSH connections, each a
// tunnel.Link. The connector leads to bastiond (task.go) or to a plain sshd (sshd.go). On the way to bastiond, ensure.go starts
// the task, and admission.go has the key that bastiond accepts. grant.go hands the grant over, renewal.go renews it, and
// contact.go proves the host key. port.go and documents.go open a session, and bond.go a bond of sessions. gone.go decides
// whether a bastion that has ended is worth another.
package access
