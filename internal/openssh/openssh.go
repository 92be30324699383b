// Package openssh serves the user's ssh processes. It offers the ephemeral key on an ssh-agent socket (IdentityAgent), and the
// bastion's host keys to the command that OpenSSH runs for them (KnownHostsCommand). It writes nothing to disk.
package openssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/keys"
)

// Names in the runtime directory. OpenSSH's IdentityAgent cannot contain a process id, so all clients connect to one name,
// agentLink. It leads to the socket of the latest proxy. Each proxy recognises its own clients by the peer's process id, and
// relays other clients to their proxies. The clients are ssh processes; each is the parent of its proxy and of its
// KnownHostsCommand.
const (
	agentLink   = "agent.sock"
	agentPrefix = "agent-"
	knownPrefix = "known-"
)

// IdentityAgent returns the path of the ssh-agent socket in dir, the runtime directory, for OpenSSH's option IdentityAgent.
func IdentityAgent(dir string) string { return filepath.Join(dir, agentLink) }

// Sockets serves one ssh process, the parent of this one, on two sockets: an ssh-agent with the ephemeral key, and the
// bastion's host keys. A client waits until the answer is known.
type Sockets struct {
	dir    string
	client int // process id of the served ssh
	log    *slog.Logger

	agent, known *private.Socket // nil: not served
	cancel       context.CancelFunc
	ctx          context.Context
	wg           sync.WaitGroup

	signer   promise[ssh.Signer]
	hostKeys promise[[]ssh.PublicKey]
}

// promise is a value that becomes known later. keep sets it once.
type promise[T any] struct {
	once  sync.Once
	known chan struct{} // closed once value is set
	value T
}

func (p *promise[T]) keep(v T) {
	p.once.Do(func() {
		p.value = v
		close(p.known)
	})
}

// Serve opens the sockets in dir, the runtime directory, for the ssh process with the given id. withAgent says whether
// OfferSigner will follow. The caller must call Close, which removes the sockets.
func Serve(dir string, client int, withAgent bool, log *slog.Logger) (*Sockets, error) {
	return serve(dir, client, true, withAgent, log)
}

// ServeIdentity is Serve with the ssh-agent only, for a server whose host key the user knows.
func ServeIdentity(dir string, client int, log *slog.Logger) (*Sockets, error) {
	return serve(dir, client, false, true, log)
}

func serve(dir string, client int, withKnown, withAgent bool, log *slog.Logger) (*Sockets, error) {
	const op = "open the sockets for OpenSSH"
	if err := private.CheckPath(filepath.Join(dir, agentPrefix+"4194304"+private.Suffix)); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	for _, prefix := range []string{agentPrefix, knownPrefix} {
		private.RemoveStale(filepath.Join(dir, prefix+"*"+private.Suffix))
	}
	o := &Sockets{dir: dir, client: client, log: log}
	o.signer.known, o.hostKeys.known = make(chan struct{}), make(chan struct{})
	o.ctx, o.cancel = context.WithCancel(context.Background())
	var err error
	if withKnown {
		if o.known, err = private.ListenSocket(o.path(knownPrefix)); err != nil {
			return nil, fail.New(fail.Other, op, err, "")
		}
		o.wg.Go(o.serveKnown)
	}
	if !withAgent {
		return o, nil
	}
	if o.agent, err = private.ListenSocket(o.path(agentPrefix)); err == nil {
		err = o.lead()
	}
	if err != nil {
		o.Close()
		return nil, fail.New(fail.Other, op, err, "")
	}
	o.wg.Go(o.serveAgent)
	return o, nil
}

// OfferHostKeys sets the bastion's host keys. Only the first call counts.
func (o *Sockets) OfferHostKeys(hostKeys []ssh.PublicKey) { o.hostKeys.keep(hostKeys) }

// OfferSigner sets the agent's key. Only the first call counts.
func (o *Sockets) OfferSigner(signer ssh.Signer) { o.signer.keep(signer) }

// Close closes and removes the sockets and waits for their connections to end.
func (o *Sockets) Close() {
	if o.agent != nil {
		o.yieldLink()
	}
	o.cancel()
	if o.agent != nil {
		_ = o.agent.Close()
	}
	if o.known != nil {
		_ = o.known.Close()
	}
	if o.agent != nil {
		o.yieldLink() // again: another proxy that ended may have passed the link on to this one meanwhile
	}
	o.wg.Wait()
}

func (o *Sockets) path(prefix string) string {
	return filepath.Join(o.dir, prefix+strconv.Itoa(o.client)+private.Suffix)
}

// lead makes agentLink lead to this proxy.
func (o *Sockets) lead() error { return link(o.dir, filepath.Base(o.path(agentPrefix))) }

// link replaces agentLink atomically with a link to name.
func link(dir, name string) error {
	tmp := filepath.Join(dir, ".link-"+strconv.Itoa(os.Getpid()))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(name, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, agentLink))
}

// yieldLink makes agentLink lead to another proxy, or removes it.
func (o *Sockets) yieldLink() {
	own := filepath.Base(o.path(agentPrefix))
	at := filepath.Join(o.dir, agentLink)
	if to, err := os.Readlink(at); err != nil || to != own {
		return
	}
	others, err := filepath.Glob(filepath.Join(o.dir, agentPrefix+"*"+private.Suffix))
	if err == nil {
		for _, other := range others {
			name := filepath.Base(other)
			if name == own || link(o.dir, name) != nil {
				continue
			}
			if _, err := os.Lstat(other); err == nil { // if that proxy still runs, it removes or passes on the link itself
				return
			}
		}
	}
	_ = os.Remove(at) // another proxy may have replaced it; its clients fall back on their next try
}

// serveAgent offers the ephemeral key to this proxy's own clients and relays other clients. It accepts before its key is known,
// because other proxies' clients must not wait for it.
func (o *Sockets) serveAgent() {
	if err := keys.ServeAgent(o.ctx, &ownClients{o.agent, o}, lateSigner{&o.signer}); err != nil && o.ctx.Err() == nil {
		o.log.Warn("the agent socket failed", "err", err)
	}
}

// ownClients is a listener that relays other proxies' clients.
type ownClients struct {
	*private.Socket
	o *Sockets
}

func (l *ownClients) Accept() (net.Conn, error) {
	for {
		conn, err := l.Socket.Accept()
		if err != nil {
			return nil, err
		}
		other := l.o.proxyOf(private.PeerPID(conn))
		if other == nil {
			return &patientConn{conn, l.o}, nil
		}
		l.o.wg.Go(func() { relay(l.o.ctx, conn, other) })
	}
}

// patientConn is a client's connection. Its Read waits until the key is known.
type patientConn struct {
	net.Conn
	o *Sockets
}

func (c *patientConn) Read(b []byte) (int, error) {
	select {
	case <-c.o.signer.known:
		return c.Conn.Read(b)
	case <-c.o.ctx.Done():
		return 0, net.ErrClosed
	}
}

// lateSigner is a signer for use once it is known; patientConn ensures that.
type lateSigner struct{ promised *promise[ssh.Signer] }

func (s lateSigner) PublicKey() ssh.PublicKey { return s.promised.value.PublicKey() }

func (s lateSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.promised.value.Sign(rand, data)
}

// proxyOf connects to another ssh process's proxy. It returns nil for this proxy's own process, and for a process without a
// proxy, which gets this proxy's key.
func (o *Sockets) proxyOf(client int) net.Conn {
	if client == 0 || client == o.client {
		return nil
	}
	conn, err := private.DialSocket(filepath.Join(o.dir, agentPrefix+strconv.Itoa(client)+private.Suffix))
	if err != nil {
		return nil
	}
	return conn
}

// relay copies between two connections until one of them or ctx ends.
func relay(ctx context.Context, a, b net.Conn) {
	closeBoth := func() {
		_ = a.Close()
		_ = b.Close()
	}
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	var wg sync.WaitGroup
	for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			_, _ = io.Copy(p[0], p[1]) // an error ends the relay in the same way
			closeBoth()
		})
	}
	wg.Wait()
}

// serveKnown writes the host keys to each client, once they are known.
func (o *Sockets) serveKnown() {
	for {
		conn, err := o.known.Accept()
		if err != nil {
			return // closed
		}
		o.wg.Go(func() {
			defer func() { _ = conn.Close() }()
			select {
			case <-o.hostKeys.known:
			case <-o.ctx.Done():
				return
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			for _, key := range o.hostKeys.value {
				if _, err := conn.Write(ssh.MarshalAuthorizedKey(key)); err != nil {
					return
				}
			}
		})
	}
}

// AskHostKeys waits for the host keys from the proxy of the ssh process with the given id, and returns them. If that process
// has no proxy, it asks the newest one: a shell may stand between the two.
func AskHostKeys(ctx context.Context, dir string, client int) ([]ssh.PublicKey, error) {
	const op = "ask for the bastion's host key"
	path := filepath.Join(dir, knownPrefix+strconv.Itoa(client)+private.Suffix)
	if _, err := os.Stat(path); err != nil {
		if path = newest(dir, knownPrefix); path == "" {
			return nil, fail.New(fail.Other, op, errors.New("no bastion proxy is running"),
				"use bastion proxy as the ProxyCommand of this host, as ssh_config.example does")
		}
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fail.New(fail.Other, op, err, "")
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	data, err := io.ReadAll(io.LimitReader(conn, 64<<10))
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	if err != nil {
		return nil, fail.New(fail.Other, op, err, "")
	}
	var out []ssh.PublicKey
	for line := range strings.Lines(string(data)) {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fail.New(fail.Other, op, err, "")
		}
		out = append(out, key)
	}
	if len(out) == 0 {
		return nil, fail.New(fail.Lost, op, errors.New("the bastion proxy ended before it was known"), "")
	}
	return out, nil
}

// newest returns the newest socket; "" if there is none.
func newest(dir, prefix string) string {
	paths, err := filepath.Glob(filepath.Join(dir, prefix+"*"+private.Suffix))
	if err != nil {
		return ""
	}
	var best string
	var at time.Time
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.ModTime().After(at) {
			best, at = p, info.ModTime()
		}
	}
	return best
}
