package tunnel

import (
	"context"
	"net"

	"golang.org/x/crypto/ssh"
)

// Transport is a byte stream to an SSH server, and the data for a login there. The Link closes Conn.
type Transport struct {
	Conn              net.Conn
	User              string
	Auth              []ssh.AuthMethod
	HostKey           ssh.HostKeyCallback // required; an error is permanent and comes before any data of this end
	HostKeyAlgorithms []string            // nil: the defaults of x/crypto/ssh
	Describe          string              // names the bastion in messages and in Replacing
	Keepalive         Keepalive           // for this transport; zero fields take the LinkConfig's value

	// Banner, if not nil, receives the text that the server sends before the login.
	Banner func(text string)

	// Confirm, if not nil, checks after the login that this is the right server. The Link sends nothing through the server before.
	// An error ends the connection, and the Link too if it is permanent.
	Confirm func(ctx context.Context, conn ssh.ConnMetadata) error

	// Ended, if not nil, returns why Conn's owner closed it, or nil.
	Ended func() error
}

// ended returns why the owner of Conn closed it; nil if it did not.
func (t *Transport) ended() error {
	if t.Ended == nil {
		return nil
	}
	return t.Ended()
}

// Connector makes Transports. The Link calls Connect from one goroutine, once for each attempt, and Connect bounds its own time.
// [UseOf] gives the purpose of the transport, and so its acceptable cost. A Connector that would have to start a server returns
// [Gone] instead, unless the purpose is worth it. An error for which [IsPermanent] holds ends the Link. After any other the Link
// tries again, for ever.
type Connector interface {
	Connect(ctx context.Context) (*Transport, error)
}

// ConnectorFunc adapts a function to a Connector.
type ConnectorFunc func(ctx context.Context) (*Transport, error)

// Connect calls f.
func (f ConnectorFunc) Connect(ctx context.Context) (*Transport, error) { return f(ctx) }

// Use is the purpose of a transport.
type Use int

// The uses of a transport, from the least.
const (
	// Unused: the Link has no users. It may have its old server back, but the Connector starts nothing for it.
	Unused Use = iota
	// Interrupted: the last connection was lost with connections in it, or its draining bastion still has some. No user waits for
	// another one.
	Interrupted
	// Wanted: a user waits for the Link.
	Wanted
)

type useKey struct{}

// UseOf returns the transport's purpose inside Connect, and Wanted elsewhere.
func UseOf(ctx context.Context) Use {
	if use, ok := ctx.Value(useKey{}).(Use); ok {
		return use
	}
	return Wanted
}

// WithUse returns a context for Connect in which UseOf returns use.
func WithUse(ctx context.Context, use Use) context.Context {
	return context.WithValue(ctx, useKey{}, use)
}

type replacingKey struct{}

// Replacing returns, inside Connect, the description of the draining bastion that the new transport replaces. The transport must
// lead to another one, because that one is about to end.
func Replacing(ctx context.Context) (describe string, ok bool) {
	describe, ok = ctx.Value(replacingKey{}).(string)
	return describe, ok
}
