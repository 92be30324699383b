package tunnel

import (
	"context"
	"net"

	"golang.org/x/crypto/ssh"
)

// Transport is a byte stream to an SSH server, with what is needed to log in there. The Link closes Conn.
type Transport struct {
	Conn              net.Conn
	User              string
	Auth              []ssh.AuthMethod
	HostKey           ssh.HostKeyCallback // required; an error is permanent and comes before any data of this end
	HostKeyAlgorithms []string            // nil: the defaults of x/crypto/ssh
	Describe          string              // names the bastion in messages and in Replacing
	Keepalive         Keepalive           // for this transport; its zero fields are as the LinkConfig says

	// Banner, if not nil, gets the text that the server sends before the login.
	Banner func(text string)

	// Confirm, if not nil, decides once the server has let the client in whether it is the right one. Nothing is sent
	// through the server before. An error ends the connection, and the Link too if it is permanent.
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

// Connector brings a Transport. The Link calls Connect from one goroutine, once for each attempt, and Connect bounds
// itself in time. [UseOf] says what the transport is for, and so what it may cost: a Connector that would have to start
// a server returns [Gone] instead, unless the use is worth one. An error for which [IsPermanent] holds ends the Link;
// after any other it tries again, for ever.
type Connector interface {
	Connect(ctx context.Context) (*Transport, error)
}

// ConnectorFunc is a function that is a Connector.
type ConnectorFunc func(ctx context.Context) (*Transport, error)

// Connect calls f.
func (f ConnectorFunc) Connect(ctx context.Context) (*Transport, error) { return f(ctx) }

// Use is what a transport is for.
type Use int

// The uses of a transport, from the least.
const (
	// Unused: the Link has no users. It may have its old server back; the Connector starts nothing new for it.
	Unused Use = iota
	// Interrupted: the last connection was lost with connections in it, or its draining bastion still has some. Nobody
	// waits for another.
	Interrupted
	// Wanted: somebody waits for the Link.
	Wanted
)

type useKey struct{}

// UseOf returns, inside Connect, what the transport is for; elsewhere Wanted.
func UseOf(ctx context.Context) Use {
	if use, ok := ctx.Value(useKey{}).(Use); ok {
		return use
	}
	return Wanted
}

// WithUse returns a context for Connect, for which UseOf returns use.
func WithUse(ctx context.Context, use Use) context.Context {
	return context.WithValue(ctx, useKey{}, use)
}

type replacingKey struct{}

// Replacing returns, inside Connect, the description of the draining bastion that the new transport replaces. The
// transport must lead to another one: that one is going away.
func Replacing(ctx context.Context) (describe string, ok bool) {
	describe, ok = ctx.Value(replacingKey{}).(string)
	return describe, ok
}
