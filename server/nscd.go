package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// OpenSSH resolves the names of its destinations itself, by the C library. In the image that asks nscd's socket, as it always does first,
// and nothing else: the name service switch names no service for hosts. bastiond answers there, and names only addresses that its list
// permits. So a name cannot lead OpenSSH to the instance's metadata or the task's credentials, whoever controls the name.
//
// Source: nscd-client.h and nscd_getai.c of glibc 2.36. All numbers have the machine's byte order, which Go's NativeEndian is.
const (
	nscdVersion = 2
	nscdGetAI   = 14     // the addresses of a name, of every family
	maxNSCDKey  = 256    // bytes of a name and its final zero
	nscdMaxWork = 64     // questions at a time
	afINET      = 2      // AF_INET on Linux
	afINET6     = 10     // AF_INET6 on Linux
	errNotFound = 1      // HOST_NOT_FOUND
	nscdHeader  = 3 * 4  // bytes of a question before its key
	nscdTimeout = 4500e6 // nanoseconds; the C library waits 5 s, and asks no more in the process's life after a silence
	nscdLookup  = 4000e6 // nanoseconds of them for the name server
)

// nscdAnswer is the fixed part of an answer.
type nscdAnswer struct {
	Version, Found, Count, AddressBytes, NameBytes, Error int32
}

// serveNames answers questions for addresses until the listener is closed.
func (s *Server) serveNames(l net.Listener) {
	slots := make(chan struct{}, nscdMaxWork)
	for {
		select {
		case slots <- struct{}{}:
		case <-s.halted.Done():
			return
		}
		conn, err := l.Accept()
		if err != nil {
			<-slots
			if s.halted.Err() != nil || sleep.For(s.halted, acceptPause) != nil {
				return
			}
			continue
		}
		s.work.Go(func() {
			defer func() { <-slots }()
			defer func() { _ = conn.Close() }()
			if private.CheckPeer(conn) == nil && conn.SetDeadline(time.Now().Add(nscdTimeout)) == nil {
				s.answerName(conn)
			}
		})
	}
}

// answerName answers one question. Any other of the protocol's gets no answer: the C library then asks the name service switch.
func (s *Server) answerName(conn net.Conn) {
	header := make([]byte, nscdHeader)
	if _, err := io.ReadFull(conn, header); err != nil {
		return
	}
	number := func(i int) uint32 { return binary.NativeEndian.Uint32(header[4*i:]) }
	if number(0) != nscdVersion || number(1) != nscdGetAI || number(2) == 0 || number(2) > maxNSCDKey {
		return
	}
	key := make([]byte, number(2))
	if _, err := io.ReadFull(conn, key); err != nil {
		return
	}
	addrs := s.lookUpForOpenSSH(string(bytes.TrimSuffix(key, []byte{0})))
	_, _ = conn.Write(nscdReply(addrs)) // fails with the process that asked
}

// lookUpForOpenSSH returns a host's permitted addresses; none, after a line in the audit log, if there are none.
func (s *Server) lookUpForOpenSSH(host string) []netip.Addr {
	name, err := parseName(host)
	if err == nil && !lists(s.sshd.open, name) {
		err = errNotListed
	}
	var addrs []netip.Addr
	if err == nil {
		ctx, cancel := context.WithTimeout(s.halted, nscdLookup)
		defer cancel()
		addrs, err = s.resolve(ctx, name)
		if err != nil {
			s.config.Logger.Warn("cannot resolve a name for OpenSSH", "name", auditText(host), "error", err)
			return nil
		}
		addrs, err = s.addressesForOpenSSH(name, addrs)
	}
	if err != nil {
		s.audit.write(audit.Record{
			Event: audit.Denied, Result: audit.Refused, Request: requestName, Destination: auditText(host), Reason: err.Error(),
		})
		return nil
	}
	return addrs
}

// requestName is the request of a denied event about a name.
const requestName = "resolve"

// nscdReply returns an answer with these addresses, or without any the error that the name is unknown.
func nscdReply(addrs []netip.Addr) []byte {
	var b bytes.Buffer
	answer := nscdAnswer{Version: nscdVersion, Error: errNotFound}
	var all, families []byte
	for _, addr := range addrs {
		all = append(all, addr.AsSlice()...)
		families = append(families, map[bool]byte{true: afINET, false: afINET6}[addr.Is4()])
	}
	if len(addrs) > 0 {
		answer = nscdAnswer{Version: nscdVersion, Found: 1, Count: int32(len(addrs)), AddressBytes: int32(len(all))}
	}
	_ = binary.Write(&b, binary.NativeEndian, answer) // a Buffer takes everything
	b.Write(all)
	b.Write(families)
	return b.Bytes()
}
