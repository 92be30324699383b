package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/tunnel"
)

// serverConnector connects to a plain OpenSSH server behind an SSM target.
type serverConnector struct {
	access *Access
	check  ssh.HostKeyCallback
	keys   []ssh.PublicKey // the keys that check accepts
}

func newServerConnector(a *Access) (*serverConnector, error) {
	s := a.settings
	check, pinned, err := pinnedServer(s.SSHD.HostKey, s.SSHD.Target, s.SSHD.Port)
	if err != nil {
		return nil, err
	}
	return &serverConnector{access: a, check: check, keys: pinned}, nil
}

func (c *serverConnector) onState(tunnel.State) {}

// Connect implements tunnel.Connector.
func (c *serverConnector) Connect(ctx context.Context) (*tunnel.Transport, error) {
	o, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	return o.transport(), nil
}

func (c *serverConnector) open(ctx context.Context) (*opened, error) {
	s := c.access.settings
	signers, err := identity(ctx, s.SSHD.Identity, c.access.options.Env)
	if err != nil {
		return nil, err
	}
	c.access.progress("opening a session to " + s.SSHD.Target)
	stream, err := c.access.openPort(ctx, sessions.Port{Target: s.SSHD.Target, Port: s.SSHD.Port, ServerFirst: true}, new(patience))
	if err != nil {
		return nil, err
	}
	return &opened{
		conn: stream, describe: s.SSHD.Target, user: s.SSHD.User, signers: signers, check: c.check, algos: algorithms(c.keys),
		hostKeys: c.keys,
	}, nil
}

// pinnedServer reads the setting ssh_host_key: a public key, or a known_hosts file with entries for the target. It returns the
// check of a host key and the keys that pass it.
func pinnedServer(setting, target string, port int) (ssh.HostKeyCallback, []ssh.PublicKey, error) {
	const op = "read ssh_host_key"
	if config.IsPublicKey(setting) {
		key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(setting))
		if err == nil && len(rest) > 0 {
			err = errors.New("there is more than one key")
		}
		if err != nil {
			return nil, nil, fail.New(fail.Usage, op, err, "give one public key, as ssh-keyscan prints it, or a known_hosts file")
		}
		return keys.PinnedHostKey(key), []ssh.PublicKey{key}, nil
	}
	check, err := knownhosts.New(setting)
	if err != nil {
		return nil, nil, fail.New(fail.Usage, op, err, "give a public key or a known_hosts file")
	}
	// Look the file up by the name alone; an address would let other entries match.
	host := net.JoinHostPort(target, fmt.Sprint(port))
	callback := func(_ string, _ net.Addr, key ssh.PublicKey) error { return check(host, noAddr{}, key) }
	var unknown *knownhosts.KeyError
	if err := callback("", nil, noKey{}); !errors.As(err, &unknown) || len(unknown.Want) == 0 {
		return nil, nil, fail.New(fail.Usage, op, fmt.Errorf("%s has no key of %s", setting, knownhosts.Normalize(host)),
			"add the line that ssh-keyscan prints on the server, with "+knownhosts.Normalize(host)+" as its name")
	}
	var pinned []ssh.PublicKey
	for _, w := range unknown.Want {
		pinned = append(pinned, w.Key)
	}
	return callback, pinned, nil
}

// noKey is a key that occurs in no file.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// noAddr is the address of a server behind a session.
type noAddr struct{}

func (noAddr) Network() string { return "tcp" }
func (noAddr) String() string  { return "0.0.0.0:0" }

// algorithms returns the host key algorithms to offer, so that a server with several keys shows a pinned one.
func algorithms(pinned []ssh.PublicKey) []string {
	var out []string
	seen := make(map[string]bool)
	for _, key := range pinned {
		if seen[key.Type()] {
			continue
		}
		seen[key.Type()] = true
		if key.Type() == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		out = append(out, key.Type())
	}
	return out
}

// identity returns a source of the user's signers: the SSH agent's keys, or the key of a file.
func identity(ctx context.Context, setting string, env *awssdk.Env) (func() ([]ssh.Signer, error), error) {
	if setting == "agent" {
		socket := env.AgentSocket()
		if socket == "" {
			return nil, fail.New(fail.Usage, "find your SSH key", errors.New("SSH_AUTH_SOCK is not set, so there is no SSH agent"),
				"start ssh-agent and ssh-add a key, or name a key file with --ssh-identity")
		}
		signers, err := agentSigners(ctx, socket)
		if err != nil {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("ask the SSH agent: %w", context.Cause(ctx))
			}
			return nil, fail.New(fail.Usage, "ask the SSH agent", err, "check SSH_AUTH_SOCK, or name a key file with --ssh-identity")
		}
		if len(signers) == 0 {
			return nil, fail.New(fail.Usage, "ask the SSH agent", errors.New("it has no keys"), "add one with ssh-add")
		}
		return func() ([]ssh.Signer, error) { return signers, nil }, nil
	}
	const op = "read ssh_identity"
	data, err := files.ReadText(setting)
	if err != nil {
		return nil, fail.New(fail.Usage, op, err, "check the path, or use --ssh-identity agent")
	}
	signer, err := ssh.ParsePrivateKey(data)
	switch {
	case errors.As(err, new(*ssh.PassphraseMissingError)):
		return nil, fail.New(fail.Usage, op, fmt.Errorf("%s has a passphrase", setting),
			"add it to the SSH agent with ssh-add and use --ssh-identity agent")
	case err != nil:
		return nil, fail.New(fail.Usage, op, fmt.Errorf("%s: %w", setting, err), "give a private key file in OpenSSH or PEM form")
	}
	return func() ([]ssh.Signer, error) { return []ssh.Signer{signer}, nil }, nil
}

// agentSigners returns the keys of an SSH agent. Each signature opens its own connection to the agent, so that none has to stay
// open.
func agentSigners(ctx context.Context, socket string) ([]ssh.Signer, error) {
	conn, err := private.DialSocket(socket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	listed, err := sshagent.NewClient(conn).List()
	if err != nil {
		return nil, err
	}
	var signers []ssh.Signer
	for _, k := range listed {
		key, err := ssh.ParsePublicKey(k.Blob)
		if err != nil {
			continue // a type that only the agent knows
		}
		signers = append(signers, &agentSigner{socket: socket, key: key})
	}
	return signers, nil
}

type agentSigner struct {
	socket string
	key    ssh.PublicKey
}

func (s *agentSigner) PublicKey() ssh.PublicKey { return s.key }

// signTimeout bounds a signature: the user may have to confirm or to touch a key.
const signTimeout = time.Minute

// SignWithAlgorithm asks the agent for a signature with the given algorithm. For RSA keys that avoids SHA-1, which servers
// refuse.
func (s *agentSigner) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	conn, err := private.DialSocket(s.socket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(signTimeout)); err != nil {
		return nil, err
	}
	var flags sshagent.SignatureFlags
	switch algorithm {
	case ssh.KeyAlgoRSASHA256, ssh.CertAlgoRSASHA256v01:
		flags = sshagent.SignatureFlagRsaSha256
	case ssh.KeyAlgoRSASHA512, ssh.CertAlgoRSASHA512v01:
		flags = sshagent.SignatureFlagRsaSha512
	}
	return sshagent.NewClient(conn).SignWithFlags(s.key, data, flags)
}

func (s *agentSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, "")
}
