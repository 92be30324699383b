package bond

import (
	"cmp"
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
	maxVersion = 2

	versionSealed = 2 // from this version on, both ends authenticate frames and refusals
)

const (
	magic    = "BOND"
	nonceLen = 16
	keyLen   = 32 // of an X25519 key
	macLen   = sha256.Size

	helloLen = len(magic) + 1 + 1 + nonceLen + keyLen
	// openHead is the length of the part of OPEN that tells how long the rest is.
	openHead    = len(magic) + 1 + 1 + connIDLen + nonceLen + 4
	openNewLen  = openHead + keyLen + macLen
	openJoinLen = openHead + macLen

	statusAccept = 0

	labelKey    = "bond v%d key"
	labelClient = "bond client"
	labelServer = "bond server"
	labelRefuse = "bond refuse"

	labelClientFrames = "bond client frames"
	labelServerFrames = "bond server frames"
)

// openKind is the kind of an OPEN.
type openKind uint8

const (
	openNew  openKind = 1 // makes a connection
	openJoin openKind = 2 // adds a subflow to a connection
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

// secret is a connection's key. Its holder may add subflows.
type secret [32]byte

// deriveKey derives a connection's key from the values that NEW exchanged.
func deriveKey(
	private *ecdh.PrivateKey, peer, serverNonce, clientNonce []byte, id connID, version uint8,
) (secret, error) {
	public, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return secret{}, err
	}
	shared, err := private.ECDH(public) // fails for public keys of small order, which give zero for any private key
	if err != nil {
		return secret{}, err
	}
	salt := append(append(make([]byte, 0, 2*nonceLen), serverNonce...), clientNonce...)
	key, err := hkdf.Key(sha256.New, shared, salt, fmt.Sprintf(labelKey, version)+string(id[:]), len(secret{}))
	if err != nil {
		return secret{}, err
	}
	return secret(key), nil
}

// proof returns the MAC by which an end shows that it has the key and saw this handshake.
func proof(key secret, label string, said ...[]byte) []byte {
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(label))
	for _, b := range said {
		mac.Write(b)
	}
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

// identity is all that a client needs to add subflows to a connection.
type identity struct {
	id      connID
	key     secret
	version uint8 // agreed on by the first subflow; all others speak the same
}

// clientHandshake is the client's part of a subflow's handshake, between its OPEN and the server's answer.
type clientHandshake struct {
	identity

	hello []byte
	open  []byte
}

// clientNew reads HELLO and sends an OPEN that makes the connection id. It speaks the highest version that both ends know, up to
// highest. The caller may then send frames; awaitAccept reads the server's answer. A nil nonceSrc means crypto/rand.
func clientNew(conn net.Conn, id connID, highest uint8, nonceSrc io.Reader) (*clientHandshake, error) {
	nonceSrc = cmp.Or(nonceSrc, rand.Reader)
	hello, err := readHello(conn, minVersion, highest)
	if err != nil {
		return nil, err
	}
	nonce, private, err := ephemeral(nonceSrc)
	if err != nil {
		return nil, err
	}
	version := min(highest, hello[len(magic)])
	serverNonce, serverKey := splitHello(hello)
	key, err := deriveKey(private, serverKey, serverNonce, nonce[:], id, version)
	if err != nil {
		return nil, protocolErrorf("HELLO with an unusable key: %v", err)
	}
	open := appendOpenHead(make([]byte, 0, openNewLen), version, openNew, id, nonce, 0)
	open = append(open, private.PublicKey().Bytes()...)
	return sendOpen(conn, identity{id, key, version}, hello, open)
}

// clientJoin reads HELLO and sends an OPEN that adds a subflow to a connection.
func clientJoin(conn net.Conn, to identity, subflow uint32) (*clientHandshake, error) {
	return clientJoinFrom(conn, to, subflow, rand.Reader)
}

func clientJoinFrom(conn net.Conn, to identity, subflow uint32, nonceSrc io.Reader) (*clientHandshake, error) {
	hello, err := readHello(conn, to.version, to.version)
	if err != nil {
		return nil, err
	}
	var nonce [nonceLen]byte
	if _, err := io.ReadFull(nonceSrc, nonce[:]); err != nil {
		return nil, fmt.Errorf("random bytes for a bond handshake: %w", err)
	}
	return sendOpen(conn, to, hello,
		appendOpenHead(make([]byte, 0, openJoinLen), to.version, openJoin, to.id, nonce, subflow))
}

// readHello reads the HELLO of a server that speaks at least one version from least to most.
func readHello(r io.Reader, least, most uint8) ([]byte, error) {
	hello := make([]byte, helloLen)
	if _, err := io.ReadFull(r, hello[:len(magic)]); err != nil {
		return nil, fmt.Errorf("bond HELLO: %w", notBareEOF(err))
	}
	if string(hello[:len(magic)]) != magic {
		return nil, protocolErrorf("it begins with %q, not %s", hello[:len(magic)], magic)
	}
	if _, err := io.ReadFull(r, hello[len(magic):]); err != nil {
		return nil, fmt.Errorf("bond HELLO: %w", notBareEOF(err))
	}
	highest, lowest := hello[len(magic)], hello[len(magic)+1]
	if lowest > highest {
		return nil, protocolErrorf("HELLO with versions %d to %d", lowest, highest)
	}
	if lowest > most || highest < least {
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

// appendOpenHead appends the part of OPEN that both kinds share.
func appendOpenHead(
	dst []byte, version uint8, kind openKind, id connID, nonce [nonceLen]byte, subflow uint32,
) []byte {
	dst = append(dst, magic...)
	dst = append(dst, version, byte(kind))
	dst = append(dst, id[:]...)
	dst = append(dst, nonce[:]...)
	return binary.BigEndian.AppendUint32(dst, subflow)
}

func sendOpen(conn net.Conn, to identity, hello, open []byte) (*clientHandshake, error) {
	open = append(open, proof(to.key, labelClient, hello, open)...)
	if _, err := conn.Write(open); err != nil {
		return nil, fmt.Errorf("bond OPEN: %w", err)
	}
	return &clientHandshake{identity: to, hello: hello, open: open}, nil
}

// seals returns the seals of the handshake's subflow.
func (h *clientHandshake) seals() seals { return deriveSeals(h.key, h.version, h.hello, h.open) }

// awaitAccept reads the server's answer and nothing beyond it. A refusal is a *RefusedError.
func (h *clientHandshake) awaitAccept(r io.Reader) error {
	var b [macLen]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return fmt.Errorf("bond answer: %w", notBareEOF(err))
	}
	if code := RefuseCode(b[0]); code != statusAccept {
		return h.readRefuse(r, code)
	}
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("bond ACCEPT: %w", notBareEOF(err))
	}
	if !hmac.Equal(b[:], proof(h.key, labelServer, h.hello, h.open)) {
		return protocolErrorf("ACCEPT without proof of the key")
	}
	return nil
}

// readRefuse reads the rest of a REFUSE after its code.
func (h *clientHandshake) readRefuse(r io.Reader, code RefuseCode) error {
	said := make([]byte, 2, 2+maxText+macLen)
	said[0] = byte(code)
	if _, err := io.ReadFull(r, said[1:]); err != nil {
		return fmt.Errorf("bond REFUSE (%s): %w", code, notBareEOF(err))
	}
	said = said[:2+int(said[1])]
	if _, err := io.ReadFull(r, said[2:]); err != nil {
		return fmt.Errorf("bond REFUSE (%s): %w", code, notBareEOF(err))
	}
	refused := &RefusedError{Code: code, Reason: string(said[2:])}
	if h.version < versionSealed {
		refused.sure = !code.byDamage()
		return refused
	}
	mac := said[len(said) : len(said)+macLen]
	if _, err := io.ReadFull(r, mac); err == nil { // else there is none: the server could not read the OPEN
		refused.sure = hmac.Equal(mac, proof(h.key, labelRefuse, h.hello, h.open, said))
	}
	return refused
}

// byDamage reports whether a server also gives this code to an OPEN that was damaged on its way.
func (c RefuseCode) byDamage() bool { return c <= RefuseMAC }

// serverHandshake is the server's part of a subflow's handshake.
type serverHandshake struct {
	conn    net.Conn
	private *ecdh.PrivateKey
	highest uint8 // version that this end speaks
	hello   []byte
	open    []byte  // as received, with its mac
	version uint8   // of OPEN; 0: not yet read, or not spoken here
	key     *secret // proven by OPEN; nil: none
}

// open is a client's parsed OPEN.
type open struct {
	version uint8
	kind    openKind
	id      connID
	subflow uint32
}

// serverHello sends HELLO.
func serverHello(conn net.Conn, highest uint8) (*serverHandshake, error) {
	return serverHelloFrom(conn, highest, rand.Reader)
}

func serverHelloFrom(conn net.Conn, highest uint8, nonceSrc io.Reader) (*serverHandshake, error) {
	nonce, private, err := ephemeral(nonceSrc)
	if err != nil {
		return nil, err
	}
	hello := make([]byte, 0, helloLen)
	hello = append(hello, magic...)
	hello = append(hello, highest, minVersion)
	hello = append(hello, nonce[:]...)
	hello = append(hello, private.PublicKey().Bytes()...)
	if _, err := conn.Write(hello); err != nil {
		return nil, fmt.Errorf("bond HELLO: %w", err)
	}
	return &serverHandshake{conn: conn, private: private, highest: highest, hello: hello}, nil
}

// readOpen reads the client's OPEN and nothing beyond it. If the error is a *RefusedError, the caller passes it to refuse. The
// returned fields are unproven until verifyNew or verifyJoin succeeds.
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

	if o.version < minVersion || o.version > h.highest {
		return o, &RefusedError{Code: RefuseVersion, Reason: versionReason(minVersion, h.highest)}
	}
	h.version = o.version
	size := openJoinLen
	switch {
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

// verifyNew derives the connection's key, and checks that the client derived the same. Its errors are *RefusedError.
func (h *serverHandshake) verifyNew() (secret, error) {
	fields := h.open[len(magic)+2:]
	id := connID(fields)
	clientNonce := fields[connIDLen : connIDLen+nonceLen]
	serverNonce, _ := splitHello(h.hello)
	key, err := deriveKey(h.private, h.open[openHead:openHead+keyLen], serverNonce, clientNonce, id, h.version)
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
	h.key = &key
	return nil
}

// seals returns the seals of the handshake's subflow. The handshake must have proven a key.
func (h *serverHandshake) seals() seals {
	return deriveSeals(*h.key, h.version, h.hello, h.open).swapped()
}

// accept tells the client that its subflow carries frames from now on. The handshake must have proven a key.
func (h *serverHandshake) accept() error {
	answer := append([]byte{statusAccept}, proof(*h.key, labelServer, h.hello, h.open)...)
	if _, err := h.conn.Write(answer); err != nil {
		return fmt.Errorf("bond ACCEPT: %w", err)
	}
	return nil
}

// refuse tells the client why the server refuses its subflow. The caller closes the stream.
func (h *serverHandshake) refuse(code RefuseCode, text string) error {
	if code == statusAccept {
		panic("bond: REFUSE with the code of ACCEPT")
	}
	text = clipText(text)
	answer := append([]byte{byte(code), byte(len(text))}, text...)
	switch {
	case h.version == 0 || h.version >= versionSealed && h.key == nil:
		answer = append(answer, make([]byte, macLen)...) // proves nothing
	case h.version >= versionSealed:
		answer = append(answer, proof(*h.key, labelRefuse, h.hello, h.open, answer)...)
	}
	if _, err := h.conn.Write(answer); err != nil {
		return fmt.Errorf("bond REFUSE: %w", err)
	}
	return nil
}

// notBareEOF keeps callers from taking a stream that ends within the handshake for one that ended in good order.
func notBareEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
