package bond

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
)

// Versions of the protocol that this end speaks.
const (
	minVersion = 1
	maxVersion = 1
)

const (
	magic    = "BOND"
	nonceLen = 16
	keyLen   = 32 // of an X25519 key
	macLen   = sha256.Size

	helloLen = len(magic) + 1 + 1 + nonceLen + keyLen
	// openHead is the part of OPEN that tells how long the rest is.
	openHead    = len(magic) + 1 + 1 + connIDLen + nonceLen + 4
	openNewLen  = openHead + keyLen + macLen
	openJoinLen = openHead + macLen

	statusAccept = 0

	labelKey    = "bond v1 key"
	labelClient = "bond client"
	labelServer = "bond server"
)

// openKind says what an OPEN asks for.
type openKind uint8

const (
	openNew  openKind = 1 // a connection
	openJoin openKind = 2 // another subflow of a connection
)

const connIDLen = 16

// connID names a connection. The client chooses it at random.
type connID [connIDLen]byte

func newConnID() (connID, error) {
	var id connID
	_, err := rand.Read(id[:])
	return id, err
}

func (id connID) String() string { return hex.EncodeToString(id[:]) }

// secret is a connection's key. Who has it may add subflows.
type secret [32]byte

// deriveKey makes a connection's key from what NEW exchanged.
func deriveKey(private *ecdh.PrivateKey, peer, serverNonce, clientNonce []byte, id connID) (secret, error) {
	public, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return secret{}, err
	}
	shared, err := private.ECDH(public) // fails for the points that give zero whatever the private key
	if err != nil {
		return secret{}, err
	}
	salt := append(append(make([]byte, 0, 2*nonceLen), serverNonce...), clientNonce...)
	key, err := hkdf.Key(sha256.New, shared, salt, labelKey+string(id[:]), len(secret{}))
	if err != nil {
		return secret{}, err
	}
	return secret(key), nil
}

// proof is the MAC by which an end shows that it has the key and saw this handshake.
func proof(key secret, label string, hello, open []byte) []byte {
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(label))
	mac.Write(hello)
	mac.Write(open)
	return mac.Sum(nil)
}

// ephemeral reads a nonce and an X25519 key pair from a source of randomness.
func ephemeral(random io.Reader) (nonce [nonceLen]byte, private *ecdh.PrivateKey, err error) {
	var seed [nonceLen + keyLen]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nonce, nil, fmt.Errorf("random bytes for a bond handshake: %w", err)
	}
	private, err = ecdh.X25519().NewPrivateKey(seed[nonceLen:])
	return [nonceLen]byte(seed[:nonceLen]), private, err
}

// clientHandshake is the client's part of a subflow's handshake, between its OPEN and the server's answer.
type clientHandshake struct {
	key   secret
	hello []byte
	open  []byte
}

// clientNew reads HELLO and sends an OPEN that makes the connection id. The server's answer is read by awaitAccept; frames
// may be sent before. nonceSrc is nil for crypto/rand.
func clientNew(conn net.Conn, id connID, nonceSrc io.Reader) (*clientHandshake, error) {
	if nonceSrc == nil {
		nonceSrc = rand.Reader
	}
	hello, err := readHello(conn)
	if err != nil {
		return nil, err
	}
	nonce, private, err := ephemeral(nonceSrc)
	if err != nil {
		return nil, err
	}
	serverNonce, serverKey := splitHello(hello)
	key, err := deriveKey(private, serverKey, serverNonce, nonce[:], id)
	if err != nil {
		return nil, protocolErrorf("HELLO with an unusable key: %v", err)
	}
	open := appendOpenHead(make([]byte, 0, openNewLen), openNew, id, nonce, 0)
	open = append(open, private.PublicKey().Bytes()...)
	return sendOpen(conn, key, hello, open)
}

// clientJoin reads HELLO and sends an OPEN that adds a subflow to the connection id.
func clientJoin(conn net.Conn, id connID, key secret, subflow uint32) (*clientHandshake, error) {
	return clientJoinFrom(conn, id, key, subflow, rand.Reader)
}

func clientJoinFrom(
	conn net.Conn, id connID, key secret, subflow uint32, nonceSrc io.Reader,
) (*clientHandshake, error) {
	hello, err := readHello(conn)
	if err != nil {
		return nil, err
	}
	var nonce [nonceLen]byte
	if _, err := io.ReadFull(nonceSrc, nonce[:]); err != nil {
		return nil, fmt.Errorf("random bytes for a bond handshake: %w", err)
	}
	return sendOpen(conn, key, hello, appendOpenHead(make([]byte, 0, openJoinLen), openJoin, id, nonce, subflow))
}

func readHello(r io.Reader) ([]byte, error) {
	hello := make([]byte, helloLen)
	if _, err := io.ReadFull(r, hello[:len(magic)]); err != nil {
		return nil, fmt.Errorf("bond HELLO: %w", notBareEOF(err))
	}
	if string(hello[:len(magic)]) != magic {
		return nil, protocolErrorf("it begins with %q, not with HELLO", hello[:len(magic)])
	}
	if _, err := io.ReadFull(r, hello[len(magic):]); err != nil {
		return nil, fmt.Errorf("bond HELLO: %w", notBareEOF(err))
	}
	highest, lowest := hello[len(magic)], hello[len(magic)+1]
	if lowest > highest {
		return nil, protocolErrorf("HELLO with versions %d to %d", lowest, highest)
	}
	if lowest > maxVersion || highest < minVersion {
		return nil, &RefusedError{Code: RefuseVersion, Reason: versionReason(lowest, highest)}
	}
	return hello, nil
}

func splitHello(hello []byte) (nonce, key []byte) {
	rest := hello[len(magic)+2:]
	return rest[:nonceLen], rest[nonceLen:]
}

func versionReason(lowest, highest byte) string {
	if lowest == highest {
		return fmt.Sprintf("the server speaks version %d", lowest)
	}
	return fmt.Sprintf("the server speaks versions %d to %d", lowest, highest)
}

// appendOpenHead appends OPEN up to what depends on its kind. There is one version in common, or none.
func appendOpenHead(dst []byte, kind openKind, id connID, nonce [nonceLen]byte, subflow uint32) []byte {
	dst = append(dst, magic...)
	dst = append(dst, maxVersion, byte(kind))
	dst = append(dst, id[:]...)
	dst = append(dst, nonce[:]...)
	return binary.BigEndian.AppendUint32(dst, subflow)
}

func sendOpen(conn net.Conn, key secret, hello, open []byte) (*clientHandshake, error) {
	open = append(open, proof(key, labelClient, hello, open)...)
	if _, err := conn.Write(open); err != nil {
		return nil, fmt.Errorf("bond OPEN: %w", err)
	}
	return &clientHandshake{key: key, hello: hello, open: open}, nil
}

// awaitAccept reads the server's answer, and nothing beyond it. It returns a *RefusedError where the server refuses.
func (h *clientHandshake) awaitAccept(r io.Reader) error {
	var b [macLen]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return fmt.Errorf("bond answer: %w", notBareEOF(err))
	}
	if code := RefuseCode(b[0]); code != statusAccept {
		if _, err := io.ReadFull(r, b[:1]); err != nil {
			return fmt.Errorf("bond REFUSE (%s): %w", code, notBareEOF(err))
		}
		text := make([]byte, b[0])
		if _, err := io.ReadFull(r, text); err != nil {
			return fmt.Errorf("bond REFUSE (%s): %w", code, notBareEOF(err))
		}
		return &RefusedError{Code: code, Reason: string(text)}
	}
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("bond ACCEPT: %w", notBareEOF(err))
	}
	if !hmac.Equal(b[:], proof(h.key, labelServer, h.hello, h.open)) {
		return protocolErrorf("ACCEPT without proof of the key")
	}
	return nil
}

// serverHandshake is the server's part of a subflow's handshake.
type serverHandshake struct {
	conn    net.Conn
	private *ecdh.PrivateKey
	hello   []byte
	open    []byte // as it came; with its mac
}

// open is what a client asks for.
type open struct {
	version uint8
	kind    openKind
	id      connID
	subflow uint32
}

// serverHello sends HELLO.
func serverHello(conn net.Conn) (*serverHandshake, error) {
	return serverHelloFrom(conn, rand.Reader)
}

func serverHelloFrom(conn net.Conn, nonceSrc io.Reader) (*serverHandshake, error) {
	nonce, private, err := ephemeral(nonceSrc)
	if err != nil {
		return nil, err
	}
	hello := make([]byte, 0, helloLen)
	hello = append(hello, magic...)
	hello = append(hello, maxVersion, minVersion)
	hello = append(hello, nonce[:]...)
	hello = append(hello, private.PublicKey().Bytes()...)
	if _, err := conn.Write(hello); err != nil {
		return nil, fmt.Errorf("bond HELLO: %w", err)
	}
	return &serverHandshake{conn: conn, private: private, hello: hello}, nil
}

// readOpen reads the client's OPEN, and nothing beyond it. A *RefusedError is what the client is to be told, by refuse.
// Nothing that it returns is proven until verifyNew or verifyJoin has succeeded.
func (h *serverHandshake) readOpen() (open, error) {
	b := make([]byte, openNewLen)
	if _, err := io.ReadFull(h.conn, b[:openHead]); err != nil {
		return open{}, fmt.Errorf("bond OPEN: %w", notBareEOF(err))
	}
	if string(b[:len(magic)]) != magic {
		return open{}, &RefusedError{Code: RefuseMalformed, Reason: "not an OPEN"}
	}
	rest := b[len(magic):openHead]
	o := open{version: rest[0], kind: openKind(rest[1])}
	o.id = connID(rest[2:])
	o.subflow = binary.BigEndian.Uint32(rest[2+connIDLen+nonceLen:])

	size := openJoinLen
	switch {
	case o.version < minVersion || o.version > maxVersion:
		return o, &RefusedError{Code: RefuseVersion, Reason: versionReason(minVersion, maxVersion)}
	case o.kind == openNew && o.subflow != 0:
		return o, &RefusedError{Code: RefuseMalformed, Reason: "NEW is subflow 0"}
	case o.kind == openJoin && o.subflow == 0:
		return o, &RefusedError{Code: RefuseUsed, Reason: "NEW was subflow 0"}
	case o.kind == openNew:
		size = openNewLen
	case o.kind != openJoin:
		return o, &RefusedError{Code: RefuseMalformed, Reason: fmt.Sprintf("unknown kind %d", o.kind)}
	}
	if _, err := io.ReadFull(h.conn, b[openHead:size]); err != nil {
		return o, fmt.Errorf("bond OPEN: %w", notBareEOF(err))
	}
	h.open = b[:size]
	return o, nil
}

// verifyNew makes the connection's key, and checks that the client made the same. Its errors are *RefusedError.
func (h *serverHandshake) verifyNew() (secret, error) {
	fields := h.open[len(magic)+2:]
	id := connID(fields)
	clientNonce := fields[connIDLen : connIDLen+nonceLen]
	serverNonce, _ := splitHello(h.hello)
	key, err := deriveKey(h.private, h.open[openHead:openHead+keyLen], serverNonce, clientNonce, id)
	if err != nil {
		return secret{}, &RefusedError{Code: RefuseMalformed, Reason: "unusable key"}
	}
	if err := h.verifyJoin(key); err != nil {
		return secret{}, err
	}
	return key, nil
}

// verifyJoin checks that the client has the connection's key. Its error is a *RefusedError.
func (h *serverHandshake) verifyJoin(key secret) error {
	body, mac := h.open[:len(h.open)-macLen], h.open[len(h.open)-macLen:]
	if !hmac.Equal(mac, proof(key, labelClient, h.hello, body)) {
		return &RefusedError{Code: RefuseMAC}
	}
	return nil
}

// accept tells the client that its subflow carries frames from here on.
func (h *serverHandshake) accept(key secret) error {
	answer := append([]byte{statusAccept}, proof(key, labelServer, h.hello, h.open)...)
	if _, err := h.conn.Write(answer); err != nil {
		return fmt.Errorf("bond ACCEPT: %w", err)
	}
	return nil
}

// refuse tells the client why its subflow is not taken. The caller closes the stream.
func (h *serverHandshake) refuse(code RefuseCode, text string) error {
	if code == statusAccept {
		panic("bond: REFUSE with the code of ACCEPT")
	}
	text = clipText(text)
	answer := append([]byte{byte(code), byte(len(text))}, text...)
	if _, err := h.conn.Write(answer); err != nil {
		return fmt.Errorf("bond REFUSE: %w", err)
	}
	return nil
}

// notBareEOF makes an end of the stream within the handshake one that nobody takes for its orderly end.
func notBareEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
