package tunnel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

// The commands and replies of SOCKS4. It has no RFC; the documents "SOCKS" and "socks4a.protocol" describe it.
const (
	socks4Connect  = 1
	socks4Granted  = 90
	socks4Rejected = 91
	socks4BadUser  = 93 // the user is not the expected one

	// maxSOCKS4Text bounds the user and the name, which each end with a zero byte.
	maxSOCKS4Text = 255
)

// socks4Request is a request of SOCKS4, or of SOCKS4a if host is a name.
type socks4Request struct {
	command byte
	host    string // an IPv4 address or a name
	port    uint16
	user    string
}

// dest returns the destination.
func (r socks4Request) dest() string { return net.JoinHostPort(r.host, strconv.Itoa(int(r.port))) }

// parseSOCKS4 reads a request, including its version, and nothing after it.
func parseSOCKS4(r io.ByteReader) (socks4Request, error) {
	var head [8]byte
	for i := range head {
		b, err := r.ReadByte()
		if err != nil {
			return socks4Request{}, err
		}
		head[i] = b
	}
	if head[0] != 4 {
		return socks4Request{}, fmt.Errorf("version %d is not SOCKS4", head[0])
	}
	q := socks4Request{command: head[1], port: binary.BigEndian.Uint16(head[2:])}
	addr := netip.AddrFrom4([4]byte(head[4:]))
	q.host = addr.String()
	var err error
	if q.user, err = socks4Text(r); err != nil {
		return q, err
	}
	// 0.0.0.x means that a name follows, which the proxy resolves (SOCKS4a).
	if head[4] == 0 && head[5] == 0 && head[6] == 0 && head[7] != 0 {
		q.host, err = socks4Text(r)
	}
	return q, err
}

// socks4Text reads a text up to its zero byte.
func socks4Text(r io.ByteReader) (string, error) {
	var text []byte
	for {
		b, err := r.ReadByte()
		switch {
		case err != nil:
			return "", err
		case b == 0:
			return string(text), nil
		case len(text) == maxSOCKS4Text:
			return "", errors.New("the user or the name is too long")
		}
		text = append(text, b)
	}
}

// socks4 serves a SOCKS4 or 4a client.
func (p *proxyServer) socks4(h *greeting) error {
	r := bufio.NewReader(h.conn)
	q, err := parseSOCKS4(r)
	if err != nil {
		return fmt.Errorf("SOCKS4: %w", err)
	}
	switch {
	case p.auth != nil:
		return errors.Join(errors.New("SOCKS4 has no password, which this proxy wants"), h.reply4(socks4BadUser))
	case q.command != socks4Connect:
		return errors.Join(fmt.Errorf("the SOCKS4 command %d is not supported", q.command), h.reply4(socks4Rejected))
	}
	if err := h.ended(); err != nil {
		return err
	}
	dest := q.dest()
	remote, err := p.dial(h.ctx, dest)
	if err != nil {
		return h.reply4(socks4Rejected)
	}
	if err := h.reply4(socks4Granted); err != nil {
		_ = remote.Close()
		return fmt.Errorf("reply to the client: %w", err)
	}
	p.splice(h.ctx, &readAhead{h.conn, r}, asDuplex(remote), dest)
	return nil
}

// reply4 answers a SOCKS4 request. Its address has no meaning for CONNECT.
func (h *greeting) reply4(code byte) error {
	_, err := h.conn.Write([]byte{0, code, 0, 0, 0, 0, 0, 0})
	return err
}
