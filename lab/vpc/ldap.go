package vpc

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// ldapGate checks passwords for PostgreSQL by LDAP, PostgreSQL's only way to pass a password in cleartext to another program. RDS
// has a module of its own for that. Of LDAP, ldapGate only knows the simple bind.
type ldapGate struct {
	listener *trackingListener
	check    func(user, password string) error
	log      *slog.Logger
	wg       sync.WaitGroup
}

const ldapPrefix = "cn="

func startLDAPGate(check func(user, password string) error, log *slog.Logger) (*ldapGate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &ldapGate{listener: newTrackingListener(l), check: check, log: log}
	g.wg.Go(g.accept)
	return g, nil
}

func (g *ldapGate) addr() (netip.AddrPort, error) {
	return netip.ParseAddrPort(g.listener.Addr().String())
}

func (g *ldapGate) close() error {
	if g == nil {
		return nil
	}
	err := g.listener.Close()
	g.listener.closeAll()
	g.wg.Wait()
	return err
}

func (g *ldapGate) accept() {
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return // closed
		}
		g.wg.Go(func() {
			defer func() { _ = c.Close() }()
			if err := g.serve(c); err != nil && !errors.Is(err, io.EOF) {
				g.log.Debug("a question about a password could not be answered", "err", err)
			}
		})
	}
}

// Tags and results of LDAP (RFC 4511).
const (
	berSequence    = 0x30
	berInteger     = 0x02
	berOctets      = 0x04
	ldapBind       = 0x60
	ldapBindReply  = 0x61
	ldapUnbind     = 0x42
	ldapSimple     = 0x80
	ldapSuccess    = 0
	ldapBadLogin   = 49
	ldapMaxMessage = 64 << 10
)

var errBER = errors.New("not a message that this server knows")

func (g *ldapGate) serve(c net.Conn) error {
	r := bufio.NewReader(c)
	for {
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		tag, message, err := readBER(r)
		if err != nil {
			return err
		}
		if tag != berSequence {
			return errBER
		}
		body := strings.NewReader(string(message))
		tag, id, err := readBER(body)
		if err != nil || tag != berInteger {
			return errBER
		}
		op, request, err := readBER(body)
		if err != nil || op == ldapUnbind {
			return err
		}
		if op != ldapBind {
			return errBER
		}
		user, password, err := parseBind(request)
		if err != nil {
			return err
		}
		result, text := byte(ldapSuccess), ""
		if err := g.check(user, password); err != nil {
			result, text = ldapBadLogin, err.Error()
			g.log.Info("a user of the database was refused", "user", user, "err", err)
		}
		reply := appendBER(nil, 0x0a, []byte{result})
		reply = appendBER(reply, berOctets, nil)
		reply = appendBER(reply, berOctets, []byte(text))
		answer := appendBER(appendBER(nil, berInteger, id), ldapBindReply, reply)
		if _, err := c.Write(appendBER(nil, berSequence, answer)); err != nil {
			return err
		}
	}
}

// parseBind reads the version, the name and the password of a simple bind.
func parseBind(request []byte) (user, password string, err error) {
	r := strings.NewReader(string(request))
	var fields [3][]byte
	for i, want := range []byte{berInteger, berOctets, ldapSimple} {
		tag, value, err := readBER(r)
		if err != nil || tag != want {
			return "", "", errBER
		}
		fields[i] = value
	}
	user, ok := strings.CutPrefix(string(fields[1]), ldapPrefix)
	if !ok {
		return "", "", errBER
	}
	return user, string(fields[2]), nil
}

// readBER reads an element of definite length.
func readBER(r interface {
	io.Reader
	io.ByteReader
},
) (tag byte, value []byte, err error) {
	if tag, err = r.ReadByte(); err != nil {
		return 0, nil, err
	}
	b, err := r.ReadByte()
	if err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	length := int(b)
	if b >= 0x80 {
		length = 0
		if b == 0x80 || b > 0x84 {
			return 0, nil, errBER
		}
		for range b & 0x7f {
			next, err := r.ReadByte()
			if err != nil {
				return 0, nil, io.ErrUnexpectedEOF
			}
			length = length<<8 | int(next)
		}
	}
	if length > ldapMaxMessage {
		return 0, nil, errBER
	}
	value = make([]byte, length)
	if _, err := io.ReadFull(r, value); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return tag, value, nil
}

func appendBER(to []byte, tag byte, value []byte) []byte {
	to = append(to, tag)
	if n := len(value); n < 0x80 {
		to = append(to, byte(n))
	} else {
		to = append(to, 0x82, byte(n>>8), byte(n))
	}
	return append(to, value...)
}
