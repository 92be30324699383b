package keys

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/bastion-ssm/bastion/internal/sleep"
)

const (
	maxAgentConns    = 64              // simultaneous clients of an agent socket; more wait in the listener's backlog
	agentAcceptTries = 20              // consecutive accepts that may fail
	agentAcceptPause = time.Second / 4 // after a failed accept: the process may be out of descriptors for the moment
)

// ServeAgent speaks the ssh-agent protocol on l and offers the one key, read-only: clients cannot add, remove or lock keys. It
// returns when ctx is done or l fails. Before that, it closes l and every connection, and waits for them. The error is nil if
// ctx was done. The listener decides who may connect (a 0600 socket in a 0700 directory).
func ServeAgent(ctx context.Context, l net.Listener, signer ssh.Signer) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer func() { _ = l.Close() }()

	slots := make(chan struct{}, maxAgentConns)
	keyring := oneKey{signer}
	for failed := 0; ; {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if failed++; failed == agentAcceptTries || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("ssh-agent socket: %w", err)
			}
			<-slots
			_ = sleep.For(ctx, agentAcceptPause) // the loop notices the end of ctx
			continue
		}
		failed = 0
		conns.Go(func() {
			defer func() { <-slots }()
			unwatch := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer unwatch()
			defer func() { _ = conn.Close() }()
			_ = agent.ServeAgent(keyring, conn) // its error only says how the client left
		})
	}
}

var errReadOnly = errors.New("this agent is read-only")

// oneKey is an agent with one permanent key.
type oneKey struct{ signer ssh.Signer }

var _ agent.ExtendedAgent = oneKey{}

func (k oneKey) List() ([]*agent.Key, error) {
	key := k.signer.PublicKey()
	return []*agent.Key{{Format: key.Type(), Blob: key.Marshal(), Comment: "bastion (ephemeral)"}}, nil
}

func (k oneKey) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return k.SignWithFlags(key, data, 0)
}

// SignWithFlags ignores the flags, which choose among RSA's hashes.
func (k oneKey) SignWithFlags(key ssh.PublicKey, data []byte, _ agent.SignatureFlags) (*ssh.Signature, error) {
	if subtle.ConstantTimeCompare(key.Marshal(), k.signer.PublicKey().Marshal()) != 1 {
		return nil, errors.New("unknown key")
	}
	return k.signer.Sign(rand.Reader, data)
}

func (k oneKey) Signers() ([]ssh.Signer, error) { return []ssh.Signer{k.signer}, nil }

func (oneKey) Add(agent.AddedKey) error                 { return errReadOnly }
func (oneKey) Remove(ssh.PublicKey) error               { return errReadOnly }
func (oneKey) RemoveAll() error                         { return errReadOnly }
func (oneKey) Lock([]byte) error                        { return errReadOnly }
func (oneKey) Unlock([]byte) error                      { return errReadOnly }
func (oneKey) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }
