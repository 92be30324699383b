package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/keys"
)

// The control socket takes one request per connection and gives one answer, each a line of JSON.
const (
	maxControlMessage = 32 << 10 // bytes of a line
	maxControlConns   = 8
	controlTimeout    = 5 * time.Second
)

// rootUID is the user of ECS Exec's commands, whatever the task's user is.
const rootUID = 0

const (
	opGrant         = "grant"
	opHealth        = "health"
	opAuthorizedKey = "authorized-key"
)

type controlRequest struct {
	Op    string `json:"op"`
	Grant string `json:"grant,omitempty"`
	User  string `json:"user,omitempty"` // and the next two, of opAuthorizedKey: as sshd has them
	Kind  string `json:"kind,omitempty"`
	Key   string `json:"key,omitempty"`
}

type controlReply struct {
	Error  string           `json:"error,omitempty"`
	Grant  *keys.GrantReply `json:"grant,omitempty"`
	Health *Health          `json:"health,omitempty"`
	Line   string           `json:"line,omitempty"` // of authorized_keys
}

// Health is a server's report on its control socket.
type Health struct {
	Version     string    `json:"version"`
	Port        int       `json:"port"`
	BondPort    int       `json:"bond_port,omitempty"` // 0: none
	Connections int       `json:"connections"`         // authenticated
	Channels    int       `json:"channels"`
	Grants      int       `json:"grants"` // live
	Draining    bool      `json:"draining"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// PushGrant hands a grant to the server whose control socket is at path.
func PushGrant(ctx context.Context, path, word string) (keys.GrantReply, error) {
	reply, err := callControl(ctx, path, controlRequest{Op: opGrant, Grant: word})
	if err != nil {
		return keys.GrantReply{}, err
	}
	if reply.Grant == nil {
		return keys.GrantReply{}, errors.New("control socket: the answer has no grant reply")
	}
	return *reply.Grant, nil
}

// CheckHealth asks the server whose control socket is at path for its Health.
func CheckHealth(ctx context.Context, path string) (Health, error) {
	reply, err := callControl(ctx, path, controlRequest{Op: opHealth})
	if err != nil {
		return Health{}, err
	}
	if reply.Health == nil {
		return Health{}, errors.New("control socket: the answer has no health")
	}
	return *reply.Health, nil
}

// AuthorizedKey asks the server whose control socket is at path for the line of authorized_keys that sshd gets for a key: its type and its
// base64. It returns "" if the key has no live grant. If user is keys.UserPending, it waits for the grant.
func AuthorizedKey(ctx context.Context, path, user, kind, key string) (string, error) {
	reply, err := callControl(ctx, path, controlRequest{Op: opAuthorizedKey, User: user, Kind: kind, Key: key})
	return reply.Line, err
}

func callControl(ctx context.Context, path string, request controlRequest) (controlReply, error) {
	ctx, cancel := context.WithTimeout(ctx, timeFor(request.Op))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return controlReply{}, fmt.Errorf("control socket: %w", err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return controlReply{}, fmt.Errorf("control socket: %w", err)
	}
	line, err := readLine(conn)
	if err != nil {
		return controlReply{}, fmt.Errorf("control socket: %w", err)
	}
	var reply controlReply
	if err := json.Unmarshal(line, &reply); err != nil {
		return controlReply{}, fmt.Errorf("control socket: %w", err)
	}
	if reply.Error != "" {
		return controlReply{}, errors.New("control socket: " + reply.Error)
	}
	return reply, nil
}

// timeFor bounds a request: the grant of a key may be on its way.
func timeFor(op string) time.Duration {
	if op == opAuthorizedKey {
		return pendingTime + controlTimeout
	}
	return controlTimeout
}

// listenControl opens the control socket: mode 0600, in a directory of mode 0700 that belongs to this user. The image's directory has mode
// 0710 and root's group, for ECS Exec's commands: their root has no capability to pass another user's modes. The socket's own mode then
// lets in whoever passes the directory, since root is not of the socket's group. It replaces a socket without a listener.
func listenControl(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	listen := private.ListenSocket
	if roots, err := files.CheckPrivateOrRoots(dir); roots && err == nil {
		listen = private.ListenSocketOfDirectory
	} else if err != nil {
		return nil, fmt.Errorf("control socket: %w; it must be this user's alone (chmod 700 %s)", err, dir)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("control socket: %s exists and is no socket", path)
		}
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("control socket: another bastiond listens on %s", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	}
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// serveControl answers on the control socket until l is closed.
func (s *Server) serveControl(l net.Listener) {
	places := maxControlConns
	if s.sshd != nil {
		places += s.config.MaxConns // each connection's sshd asks for a key, and may wait for its grant, which needs a place too
	}
	slots := make(chan struct{}, places)
	for {
		select {
		case slots <- struct{}{}:
		case <-s.halted.Done():
			return
		}
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.config.Logger.Warn("accept on the control socket failed", "error", err)
			<-slots
			if sleep.For(s.halted, acceptPause) != nil {
				return
			}
			continue
		}
		s.work.Go(func() {
			defer func() { <-slots }()
			defer func() { _ = conn.Close() }()
			stop := context.AfterFunc(s.halted, func() { _ = conn.Close() })
			defer stop()
			s.answerControl(conn)
		})
	}
}

func (s *Server) answerControl(conn net.Conn) {
	if err := conn.SetDeadline(time.Now().Add(controlTimeout)); err != nil {
		return
	}
	var reply controlReply
	if err := private.CheckPeer(conn, rootUID); err != nil {
		s.config.Logger.Warn("control socket: peer refused", "error", err)
		reply.Error = "permission denied"
	} else {
		reply = s.answer(conn)
	}
	if err := json.NewEncoder(conn).Encode(reply); err != nil {
		s.config.Logger.Warn("control socket", "error", err)
	}
}

func (s *Server) answer(conn net.Conn) controlReply {
	line, err := readLine(conn)
	if err != nil {
		return controlReply{Error: err.Error()}
	}
	var request controlRequest
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return controlReply{Error: "bad request: " + err.Error()}
	}
	if err := conn.SetDeadline(time.Now().Add(timeFor(request.Op))); err != nil {
		return controlReply{Error: err.Error()}
	}
	switch request.Op {
	case opAuthorizedKey:
		line, err := s.authorizedKey(request.User, request.Kind, request.Key)
		if err != nil {
			s.config.Logger.Warn("sshd has no line for a key", "error", err)
		}
		return controlReply{Line: line}
	case opGrant:
		reply := s.AddGrant(request.Grant)
		return controlReply{Grant: &reply}
	case opHealth:
		health := s.health()
		return controlReply{Health: &health}
	}
	return controlReply{Error: "unknown request"}
}

func (s *Server) health() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := Health{
		Version: s.config.Version, Port: s.port, BondPort: s.bondPort, Connections: len(s.clients), Channels: s.open,
		Draining: s.draining, ExpiresAt: s.expiresAt.UTC(),
	}
	now := time.Now()
	for g := range s.slots {
		if g.live(now) {
			h.Grants++
		}
	}
	return h
}

// readLine reads a line of bounded length.
func readLine(r io.Reader) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxControlMessage)).ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		if len(line) == maxControlMessage {
			return nil, fmt.Errorf("message longer than %d bytes", maxControlMessage)
		}
		return nil, io.ErrUnexpectedEOF
	}
	return line, err
}
