package bond

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// scripted is a stream whose peer has already said everything. It counts the bytes read, and keeps the bytes written.
type scripted struct {
	net.Conn // nil: nothing but Read and Write is used

	in   io.Reader
	read int
	out  bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	s.read += n
	return n, err
}

func (s *scripted) Write(p []byte) (int, error) { return s.out.Write(p) }

// counting is a source of "random" bytes: first, first+1, and so on.
type counting struct{ next byte }

func (c *counting) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = c.next
		c.next++
	}
	return len(p), nil
}

func bytesFrom(first byte, n int) []byte {
	b := make([]byte, n)
	_, _ = (&counting{first}).Read(b) // cannot fail
	return b
}

var sampleID = connID(bytesFrom(0xc0, connIDLen))

// streamPair returns the two ends of a stream that are closed at the test's end, and do not block it for ever.
func streamPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	client, server = net.Pipe()
	for _, end := range []net.Conn{client, server} {
		if err := end.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { end.Close() })
	}
	return client, server
}

// answer runs the server's part. keys are the connections that it knows.
func answer(conn net.Conn, keys map[connID]secret) (open, secret, error) {
	h, err := serverHello(conn, maxVersion)
	if err != nil {
		return open{}, secret{}, err
	}
	o, err := h.readOpen()
	var key secret
	switch known, ok := keys[o.id]; {
	case err != nil:
	case o.kind == openNew:
		key, err = h.verifyNew()
	case !ok:
		err = &RefusedError{Code: RefuseUnknown, Reason: "restarted?"}
	default:
		key, err = known, h.verifyJoin(known)
	}
	if refused := new(RefusedError); errors.As(err, &refused) {
		return o, key, errors.Join(err, h.refuse(refused.Code, refused.Reason))
	}
	if err != nil {
		return o, key, err
	}
	return o, key, h.accept()
}

type answered struct {
	open open
	key  secret
	err  error
}

// answerAside runs the server's part in a goroutine, whose result the caller must take.
func answerAside(conn net.Conn, keys map[connID]secret) <-chan answered {
	done := make(chan answered, 1)
	go func() {
		o, key, err := answer(conn, keys)
		done <- answered{o, key, err}
	}()
	return done
}

func TestHandshake(t *testing.T) {
	id, err := newConnID()
	if err != nil || id == (connID{}) || len(id.String()) != 32 {
		t.Fatal(id, err)
	}

	client, server := streamPair(t)
	done := answerAside(server, nil)
	h, err := clientNew(client, id, maxVersion, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.awaitAccept(client); err != nil {
		t.Fatal(err)
	}
	got := <-done
	if got.err != nil || got.open != (open{version: 2, kind: openNew, id: id}) {
		t.Fatalf("%+v", got)
	}
	if got.key != h.key || h.key == (secret{}) {
		t.Fatal("the two ends made different keys, or none")
	}

	for _, subflow := range []uint32{1, 2, 1<<32 - 1} {
		client, server := streamPair(t)
		done := answerAside(server, map[connID]secret{id: got.key})
		h, err := clientJoin(client, identity{id, got.key, maxVersion}, subflow)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.awaitAccept(client); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got.err != nil || got.open != (open{version: 2, kind: openJoin, id: id, subflow: subflow}) {
			t.Fatalf("%+v", got)
		}
	}

	// Another connection with the same id has another key.
	client, server = streamPair(t)
	done = answerAside(server, nil)
	if again, err := clientNew(client, id, maxVersion, nil); err != nil || again.key == h.key {
		t.Fatal("the key does not depend on the exchange", err)
	} else if err := again.awaitAccept(client); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.err != nil {
		t.Fatal(got.err)
	}
}

func TestJoinRefused(t *testing.T) {
	key, other := secret(bytesFrom(1, 32)), secret(bytesFrom(2, 32))
	for name, c := range map[string]struct {
		keys map[connID]secret
		want RefuseCode
		text string
	}{
		"unknown":   {nil, RefuseUnknown, "restarted?"},
		"wrong key": {map[connID]secret{sampleID: other}, RefuseMAC, ""},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := streamPair(t)
			done := answerAside(server, c.keys)
			h, err := clientJoin(client, identity{sampleID, key, maxVersion}, 1)
			if err != nil {
				t.Fatal(err)
			}
			err = h.awaitAccept(client)
			refused := new(RefusedError)
			if !errors.As(err, &refused) || refused.Code != c.want || refused.Reason != c.text || !refused.Fatal() {
				t.Errorf("the client got %v", err)
			}
			if got := <-done; !errors.As(got.err, &refused) {
				t.Errorf("the server got %v", got.err)
			}
		})
	}
}

// exchange gives the bytes of a handshake: fixed, and of the real code.
type exchange struct {
	server              *serverHandshake
	key                 secret
	hello, open, accept []byte
}

// fixedExchange runs both parts with nonces and keys that count: the server's from 0x00, the client's from 0x40.
func fixedExchange(t testing.TB, kind openKind, key secret) exchange {
	t.Helper()
	toClient, toServer := new(scripted), new(scripted)
	server, err := serverHelloFrom(toServer, maxVersion, &counting{0x00})
	if err != nil {
		t.Fatal(err)
	}
	toClient.in = bytes.NewReader(toServer.out.Bytes())
	var client *clientHandshake
	if kind == openNew {
		client, err = clientNew(toClient, sampleID, maxVersion, &counting{0x40})
	} else {
		client, err = clientJoinFrom(toClient, identity{sampleID, key, maxVersion}, 1, &counting{0x40})
	}
	if err != nil {
		t.Fatal(err)
	}
	toServer.out.Reset()
	toServer.in = bytes.NewReader(toClient.out.Bytes())
	if _, err := server.readOpen(); err != nil {
		t.Fatal(err)
	}
	if kind == openNew {
		if key, err = server.verifyNew(); err != nil {
			t.Fatal(err)
		}
	} else if err := server.verifyJoin(key); err != nil {
		t.Fatal(err)
	}
	if err := server.accept(); err != nil {
		t.Fatal(err)
	}
	if err := client.awaitAccept(bytes.NewReader(toServer.out.Bytes())); err != nil {
		t.Fatal(err)
	}
	return exchange{server, key, server.hello, toClient.out.Bytes(), toServer.out.Bytes()}
}

// refuse gives the REFUSE that the server could have answered with, and checks that the client believes it.
func (x *exchange) refuse(t testing.TB, code RefuseCode, text string) []byte {
	t.Helper()
	s := &scripted{}
	x.server.conn = s
	if err := x.server.refuse(code, text); err != nil {
		t.Fatal(err)
	}
	refusal := bytes.Clone(s.out.Bytes())
	var refused *RefusedError
	if err := x.client().awaitAccept(&s.out); !errors.As(err, &refused) || !refused.sure || refused.Code != code {
		t.Errorf("told %+v", err)
	}
	return refusal
}

// client is the client's part, which waits for an answer.
func (x *exchange) client() *clientHandshake {
	return &clientHandshake{identity: identity{sampleID, x.key, maxVersion}, hello: x.hello, open: x.open}
}

// The lengths are the specification's.
func TestHandshakeLengths(t *testing.T) {
	for kind, want := range map[openKind][3]int{openNew: {54, 106, 33}, openJoin: {54, 74, 33}} {
		x := fixedExchange(t, kind, secret{1})
		if got := [3]int{len(x.hello), len(x.open), len(x.accept)}; got != want {
			t.Errorf("kind %d: HELLO, OPEN, ACCEPT of %d bytes, want %d", kind, got, want)
		}
	}
}

// Neither end reads a byte that belongs to the frames which follow.
func TestHandshakeLeavesFrames(t *testing.T) {
	after := strings.Repeat("\x06", 200)
	for _, kind := range []openKind{openNew, openJoin} {
		x := fixedExchange(t, kind, secret{1})
		server := &scripted{}
		h, err := serverHelloFrom(server, maxVersion, &counting{0x00})
		if err != nil {
			t.Fatal(err)
		}
		server.in = io.MultiReader(bytes.NewReader(x.open), strings.NewReader(after))
		if _, err := h.readOpen(); err != nil || server.read != len(x.open) {
			t.Errorf("kind %d: the server read %d of %d bytes: %v", kind, server.read, len(x.open), err)
		}

		client := &scripted{in: io.MultiReader(bytes.NewReader(x.hello), bytes.NewReader(x.accept), strings.NewReader(after))}
		var c *clientHandshake
		if kind == openNew {
			c, err = clientNew(client, sampleID, maxVersion, &counting{0x40})
		} else {
			c, err = clientJoinFrom(client, identity{sampleID, x.key, maxVersion}, 1, &counting{0x40})
		}
		if err != nil || client.read != len(x.hello) {
			t.Fatalf("kind %d: the client read %d of %d bytes: %v", kind, client.read, len(x.hello), err)
		}
		r := newFrameReader(client)
		if err := c.awaitAccept(r); err != nil {
			t.Fatal(err)
		}
		var f frame
		for range after {
			if err := r.next(&f); err != nil || f.typ != frameWant {
				t.Fatal(f, err)
			}
		}
	}
}

// A change to any bit of the handshake makes a proof fail: the server's, the client's, or both.
func TestHandshakeTampered(t *testing.T) {
	for _, kind := range []openKind{openNew, openJoin} {
		key := secret{1}
		x := fixedExchange(t, kind, key)
		for i := range x.open {
			altered := bytes.Clone(x.open)
			altered[i] ^= 1 << (i % 8)
			server := &scripted{in: bytes.NewReader(altered)}
			h, err := serverHelloFrom(server, maxVersion, &counting{0x00})
			if err != nil {
				t.Fatal(err)
			}
			o, err := h.readOpen()
			if err == nil && o.kind == openNew {
				_, err = h.verifyNew()
			} else if err == nil {
				err = h.verifyJoin(key)
			}
			if err == nil {
				t.Errorf("kind %d: OPEN with byte %d altered is taken", kind, i)
			}
		}
		for i := range x.hello {
			altered := bytes.Clone(x.hello)
			altered[i] ^= 1 << (i % 8)
			client := &scripted{in: bytes.NewReader(altered)}
			var c *clientHandshake
			var err error
			if kind == openNew {
				c, err = clientNew(client, sampleID, maxVersion, &counting{0x40})
			} else {
				c, err = clientJoinFrom(client, identity{sampleID, key, maxVersion}, 1, &counting{0x40})
			}
			if err != nil {
				continue // not a HELLO, or of other versions
			}
			if bytes.Equal(client.out.Bytes(), x.open) {
				t.Errorf("kind %d: the client did not notice byte %d of HELLO", kind, i)
			}
			if err := c.awaitAccept(bytes.NewReader(x.accept)); err == nil {
				t.Errorf("kind %d: the client takes the answer to another HELLO, byte %d", kind, i)
			}
		}
		for i := range x.accept {
			altered := bytes.Clone(x.accept)
			altered[i] ^= 1 << (i % 8)
			if err := x.client().awaitAccept(bytes.NewReader(altered)); err == nil {
				t.Errorf("kind %d: ACCEPT with byte %d altered is taken", kind, i)
			}
		}
	}
}

// A recorded JOIN proves nothing under another HELLO.
func TestJoinReplayed(t *testing.T) {
	key := secret{1}
	x := fixedExchange(t, openJoin, key)
	client, server := streamPair(t)
	done := answerAside(server, map[connID]secret{sampleID: key})
	if _, err := io.ReadFull(client, make([]byte, helloLen)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write(x.open); err != nil {
		t.Fatal(err)
	}
	err := (&clientHandshake{identity: identity{key: key}}).awaitAccept(client)
	if refused := new(RefusedError); !errors.As(err, &refused) || refused.Code != RefuseMAC {
		t.Errorf("got %v", err)
	}
	if got := <-done; got.err == nil {
		t.Error("the server took it")
	}
}

// With a point of small order the secret would not depend on the other end's key: both ends refuse them.
func TestSmallOrderKeys(t *testing.T) {
	points := []string{ // RFC 7748 section 6.1 and https://cr.yp.to/ecdh.html
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	}
	for _, hexPoint := range points {
		point, err := hex.DecodeString(hexPoint)
		if err != nil {
			t.Fatal(err)
		}
		x := fixedExchange(t, openNew, secret{})

		hello := append(bytes.Clone(x.hello[:helloLen-keyLen]), point...)
		_, err = clientNew(&scripted{in: bytes.NewReader(hello)}, sampleID, maxVersion, nil)
		if violation := new(protocolError); !errors.As(err, &violation) {
			t.Errorf("the client: %v", err)
		}

		// All that the attacker needs for the mac, were the secret zero.
		copy(x.open[openHead:], point)
		h, err := serverHelloFrom(&scripted{in: bytes.NewReader(x.open)}, maxVersion, &counting{0})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.readOpen(); err != nil {
			t.Fatal(err)
		}
		_, err = h.verifyNew()
		if refused := new(RefusedError); !errors.As(err, &refused) || refused.Code != RefuseMalformed {
			t.Errorf("the server: %v", err)
		}
	}
}

func TestHelloRefused(t *testing.T) {
	versions := func(highest, lowest byte) string {
		return magic + string([]byte{highest, lowest}) + string(bytesFrom(1, nonceLen+keyLen))
	}
	for name, c := range map[string]struct {
		hello string
		want  string
	}{
		"silence":      {"", "bond HELLO: unexpected EOF"},
		"cut":          {versions(1, 1)[:53], "bond HELLO: unexpected EOF"},
		"an SSH one":   {"SSH-2.0-OpenSSH_9.9\r\n", `it begins with "SSH-"`},
		"newer":        {versions(4, 3), "refused: no version in common (\"the server speaks versions 3 to 4\")"},
		"older":        {versions(0, 0), "refused: no version in common (\"the server speaks version 0\")"},
		"upside down":  {versions(1, 2), "HELLO with versions 2 to 1"},
		"wider is fit": {versions(9, 0), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, errNew := clientNew(&scripted{in: strings.NewReader(c.hello)}, sampleID, maxVersion, nil)
			_, errJoin := clientJoin(&scripted{in: strings.NewReader(c.hello)}, identity{sampleID, secret{1}, maxVersion}, 1)
			for _, err := range []error{errNew, errJoin} {
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("got %v, want %s", err, c.want)
				}
				if errors.Is(err, io.EOF) {
					t.Error("it looks like an end in good order")
				}
			}
		})
	}
}

func TestOpenRefused(t *testing.T) {
	head := func(version byte, kind openKind, subflow uint32) string {
		b := append([]byte(magic), version, byte(kind))
		b = append(b, bytesFrom(1, connIDLen+nonceLen)...)
		return string(binary.BigEndian.AppendUint32(b, subflow))
	}
	for name, c := range map[string]struct {
		open string
		want RefuseCode // 0: the stream just ends
	}{
		"silence":         {"", 0},
		"cut head":        {head(1, openNew, 0)[:41], 0},
		"cut NEW":         {head(1, openNew, 0) + strings.Repeat("x", 63), 0},
		"cut JOIN":        {head(1, openJoin, 1) + strings.Repeat("x", 31), 0},
		"an SSH client's": {"SSH-2.0-Go\r\n" + strings.Repeat("x", 100), RefuseMalformed},
		"version 0":       {head(0, openNew, 0), RefuseVersion},
		"version 3":       {head(3, openJoin, 1), RefuseVersion},
		"kind 0":          {head(1, 0, 0), RefuseMalformed},
		"kind 3":          {head(1, 3, 0), RefuseMalformed},
		"NEW, subflow 1":  {head(1, openNew, 1), RefuseMalformed},
		"JOIN, subflow 0": {head(1, openJoin, 0), RefuseUsed},
		"NEW, no mac":     {head(1, openNew, 0) + string(bytesFrom(9, keyLen)) + strings.Repeat("\x00", macLen), RefuseMAC},
		"JOIN, no mac":    {head(1, openJoin, 1) + strings.Repeat("\x00", macLen), RefuseMAC},
	} {
		t.Run(name, func(t *testing.T) {
			s := &scripted{in: strings.NewReader(c.open)}
			id := connID(bytesFrom(1, connIDLen))
			_, _, err := answer(s, map[connID]secret{id: {1}})
			refused := new(RefusedError)
			if c.want == 0 {
				if !errors.Is(err, io.ErrUnexpectedEOF) || s.out.Len() != helloLen {
					t.Errorf("got %v, and %d bytes were sent", err, s.out.Len())
				}
				return
			}
			if !errors.As(err, &refused) || refused.Code != c.want {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			// The client is told the same.
			answer := s.out.Bytes()[helloLen:]
			told := new(RefusedError)
			if err := (&clientHandshake{}).awaitAccept(bytes.NewReader(answer)); !errors.As(err, &told) ||
				told.Code != refused.Code || told.Reason != refused.Reason {
				t.Errorf("the client is told %v, not %v", err, refused)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"silence":           {"", "bond answer: unexpected EOF"},
		"cut ACCEPT":        {"\x00" + strings.Repeat("x", 31), "bond ACCEPT: unexpected EOF"},
		"ACCEPT, no mac":    {strings.Repeat("\x00", 33), "ACCEPT without proof of the key"},
		"REFUSE":            {"\x08\x03bye", `refused: shutting down ("bye")`},
		"REFUSE, no text":   {"\x05\x00", "refused: too many connections"},
		"REFUSE, long text": {"\x05\xff" + strings.Repeat("x", 255), "too many connections (\"xxx"},
		"REFUSE, cut":       {"\x03", "bond REFUSE (unknown connection): unexpected EOF"},
		"REFUSE, cut text":  {"\x03\x02x", "bond REFUSE (unknown connection): unexpected EOF"},
		"REFUSE, unknown":   {"\xfe\x00", "refused: code 254"},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&clientHandshake{}).awaitAccept(strings.NewReader(c.answer))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestRefuseText(t *testing.T) {
	s := &scripted{}
	if err := (&serverHandshake{conn: s}).refuse(RefuseMemory, strings.Repeat("é", 200)); err != nil {
		t.Fatal(err)
	}
	told := new(RefusedError)
	err := (&clientHandshake{}).awaitAccept(&s.out)
	if !errors.As(err, &told) || told.Code != RefuseMemory || told.Reason != strings.Repeat("é", 127) {
		t.Errorf("told %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("refused with ACCEPT's code")
		}
	}()
	_ = (&serverHandshake{conn: s}).refuse(0, "") // panics
}

// Without randomness the handshake fails.
func TestNoRandomness(t *testing.T) {
	none := iotest.ErrReader(errors.New("no entropy"))
	x := fixedExchange(t, openNew, secret{})
	s := &scripted{in: bytes.NewReader(x.hello)}
	if _, err := clientNew(s, sampleID, maxVersion, none); err == nil || s.out.Len() != 0 {
		t.Errorf("NEW: %v", err)
	}
	s = &scripted{in: bytes.NewReader(x.hello)}
	if _, err := clientJoinFrom(s, identity{sampleID, secret{}, maxVersion}, 1, none); err == nil || s.out.Len() != 0 {
		t.Errorf("JOIN: %v", err)
	}
	s = &scripted{}
	if _, err := serverHelloFrom(s, maxVersion, none); err == nil || s.out.Len() != 0 {
		t.Errorf("HELLO: %v", err)
	}
}

// FuzzReadOpen: the server's parser takes any bytes, reads no more than an OPEN, and believes nothing without proof.
func FuzzReadOpen(f *testing.F) {
	key := secret{1}
	for _, kind := range []openKind{openNew, openJoin} {
		x := fixedExchange(f, kind, key)
		f.Add(x.open)
		f.Add(append(bytes.Clone(x.open), "\x06\x06\x06"...))
		f.Add(x.open[:openHead])
		altered := bytes.Clone(x.open)
		altered[len(altered)-1] ^= 1
		f.Add(altered)
	}
	f.Add([]byte("SSH-2.0-OpenSSH_9.9\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &scripted{in: bytes.NewReader(in)}
		h, err := serverHelloFrom(s, maxVersion, &counting{0x00})
		if err != nil {
			t.Fatal(err)
		}
		o, err := h.readOpen()
		if s.read > openNewLen || err == nil && o.kind == openJoin && s.read > openJoinLen {
			t.Fatalf("read %d bytes", s.read)
		}
		refused := new(RefusedError)
		if err != nil {
			if !errors.As(err, &refused) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			return
		}
		if o.kind == openNew {
			key, err = h.verifyNew()
		} else {
			err = h.verifyJoin(key)
		}
		switch {
		case err == nil:
			body := in[:s.read-macLen]
			if !hmac.Equal(in[s.read-macLen:s.read], proof(key, labelClient, h.hello, body)) {
				t.Fatalf("%x is believed without proof", in)
			}
		case !errors.As(err, &refused):
			t.Fatal(err)
		}
	})
}

// FuzzClientHandshake: the client's parsers take any bytes, read no more than HELLO and an answer, and accept only what
// proves the key.
func FuzzClientHandshake(f *testing.F) {
	key := secret{1}
	for _, kind := range []openKind{openNew, openJoin} {
		x := fixedExchange(f, kind, key)
		f.Add(kind == openNew, append(bytes.Clone(x.hello), x.accept...))
		f.Add(kind == openNew, append(bytes.Clone(x.hello), "\x03\x04gone\x06\x06"...))
		f.Add(kind == openNew, append(bytes.Clone(x.hello), make([]byte, 33)...))
	}
	f.Add(true, []byte("SSH-2.0-OpenSSH_9.9\r\n"))
	f.Fuzz(func(t *testing.T, isNew bool, in []byte) {
		s := &scripted{in: bytes.NewReader(in)}
		var h *clientHandshake
		var err error
		if isNew {
			h, err = clientNew(s, sampleID, maxVersion, &counting{0x40})
		} else {
			h, err = clientJoinFrom(s, identity{sampleID, key, maxVersion}, 1, &counting{0x40})
		}
		refused, violation := new(RefusedError), new(protocolError)
		isTold := func(err error) bool {
			return errors.As(err, &refused) || errors.As(err, &violation) || errors.Is(err, io.ErrUnexpectedEOF)
		}
		if s.read > helloLen {
			t.Fatalf("read %d bytes for HELLO", s.read)
		}
		if err != nil {
			if !isTold(err) || s.out.Len() != 0 {
				t.Fatalf("%v, after %d bytes were sent", err, s.out.Len())
			}
			return
		}
		err = h.awaitAccept(s)
		switch answer := in[helloLen:s.read]; {
		case err == nil:
			if len(answer) != 1+macLen || !hmac.Equal(answer[1:], proof(h.key, labelServer, h.hello, h.open)) {
				t.Fatalf("%x is believed without proof", answer)
			}
		case !isTold(err):
			t.Fatal(err)
		case len(answer) > 2+maxText, len(answer) > 1+macLen && answer[0] == statusAccept:
			t.Fatalf("read %d bytes for an answer", len(answer))
		}
	})
}
