package rig

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHD is a stock OpenSSH server on a loopback address: one `sshd -i` for each connection, so that no port is guessed.
// Its users are this machine's; as root it serves any, else the one who runs it.
type SSHD struct {
	HostKey ssh.PublicKey

	l       net.Listener
	program string
	dir     string // configuration and keys
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	log   bytes.Buffer
	conns int // so far
}

// StartSSHD starts the program sshd for clients that have the key.
func StartSSHD(program string, authorized ssh.PublicKey) (*SSHD, error) {
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd's separation of privileges wants it
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "sshd")
	if err != nil {
		return nil, err
	}
	s := &SSHD{program: program, dir: dir}
	if err := s.start(authorized); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *SSHD) start(authorized ssh.PublicKey) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if s.HostKey, err = ssh.NewPublicKey(public); err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return err
	}
	config := fmt.Sprintf("HostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\n"+
		"PasswordAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"+
		"PrintMotd no\nPrintLastLog no\n", s.path("host_key"), s.path("authorized_keys"))
	for name, data := range map[string][]byte{
		"host_key":        pem.EncodeToMemory(block),
		"authorized_keys": ssh.MarshalAuthorizedKey(authorized),
		"config":          []byte(config),
	} {
		if err := os.WriteFile(s.path(name), data, 0o600); err != nil {
			return err
		}
	}
	if s.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.serve(ctx) })
	return nil
}

func (s *SSHD) path(name string) string { return filepath.Join(s.dir, name) }

// Addr is the address that the server listens on.
func (s *SSHD) Addr() string { return s.l.Addr().String() }

// Log returns what the server has logged.
func (s *SSHD) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Connections is how many connections the server has had so far.
func (s *SSHD) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// Close ends the server and its connections, and waits for them.
func (s *SSHD) Close() error {
	err := s.l.Close()
	s.cancel()
	s.wg.Wait()
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *SSHD) serve(ctx context.Context) {
	for {
		conn, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns++
		s.mu.Unlock()
		file, err := conn.(*net.TCPConn).File()
		_ = conn.Close()
		if err != nil {
			s.logf("%v", err)
			continue
		}
		s.wg.Go(func() {
			defer file.Close()
			cmd := exec.CommandContext(ctx, s.program, "-i", "-e", "-f", s.path("config"))
			cmd.Stdin, cmd.Stdout = file, file
			var log bytes.Buffer
			cmd.Stderr = &log
			cmd.WaitDelay = time.Second
			_ = cmd.Run() // its end is the connection's
			s.logf("%s", &log)
		})
	}
}

func (s *SSHD) logf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(&s.log, format, args...)
}
