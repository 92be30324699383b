package server

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/keys"
)

// startFront starts a server whose SSH port an sshd serves: that of the config, or one that is missing. bastion-image has the tests with a
// real one.
func startFront(t *testing.T, config Config) *bastion {
	t.Helper()
	config.Socket = filepath.Join(t.TempDir(), "run", "s.sock")
	config.SSHD = cmp.Or(config.SSHD, &SSHD{Program: "/nonexistent/sshd", Config: "/etc/bastiond/sshd_config", Self: "/bastiond"})
	return start(t, config)
}

// The list of OpenSSH has single names, addresses and ports: what else the allow-list can say, it cannot.
func TestLiterals(t *testing.T) {
	for text, want := range map[string]string{
		"DB.internal.:5432,10.0.0.1:6379,[fd00::1]:443": "db.internal:5432 10.0.0.1:6379 [fd00::1]:443",
		"":                 "",
		"*:5432":           "error",
		"*.internal:5432":  "error",
		"d?.internal:5432": "error",
		"10.0.0.0/8:5432":  "error",
		"db.internal:*":    "error",
		"db.internal:1-2":  "error",
	} {
		all, err := mustAllow(t, text).literals()
		if got := joinLiterals(all, " "); err == nil && got != want || (err != nil) != (want == "error") {
			t.Errorf("%s: %q, %v; want %s", text, got, err, want)
		}
	}
}

// A key with a live grant gets a line with its own destinations and its end; another gets none.
func TestAuthorizedKey(t *testing.T) {
	b := startFront(t, Config{Allow: mustAllow(t, "db.internal:5432,10.0.0.1:6379"), Limit: new(mustAllow(t, "*.internal:5432,10.0.0.0/8:6379"))})
	line := func(user string, p *keys.Pair) string {
		kind, key, _ := strings.Cut(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p.PublicKey()))), " ")
		line, err := AuthorizedKey(t.Context(), b.config.Socket, user, kind, key)
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	all, one, nothing := b.grant(t), b.grant(t, "db.internal:*"), b.grant(t, "elsewhere.internal:5432")
	for _, tt := range []struct {
		pair *keys.Pair
		want string
	}{
		{all, `,permitopen="db.internal:5432",permitopen="10.0.0.1:6379" ssh-ed25519 `},
		{one, `Z",permitopen="db.internal:5432" ssh-ed25519 `},
	} {
		got := line("bastion", tt.pair)
		if !strings.HasPrefix(got, `restrict,port-forwarding,expiry-time="20`) || !strings.Contains(got, tt.want) || strings.Contains(got, "\n") {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	for _, p := range []*keys.Pair{nothing, pair(t)} {
		if got := line("bastion", p); got != "" {
			t.Errorf("a line for a key without anything to reach: %q", got)
		}
	}
	// A client whose grant is on its way waits for it, and does not keep the grant out.
	late := pair(t)
	var waiting []net.Conn // the server takes them in their order
	for range maxControlConns + 1 {
		conn, err := net.Dial("unix", b.config.Socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		kind, key, _ := strings.Cut(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(late.PublicKey()))), " ")
		if err := json.NewEncoder(conn).Encode(controlRequest{Op: opAuthorizedKey, User: keys.UserPending, Kind: kind, Key: key}); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, conn)
	}
	if reply, err := PushGrant(t.Context(), b.config.Socket, word(t, late, time.Hour)); err != nil || reply.Error != "" {
		t.Fatal(reply.Error, err)
	}
	for _, conn := range waiting {
		var reply controlReply
		if err := json.NewDecoder(conn).Decode(&reply); err != nil || reply.Line == "" {
			t.Errorf("no line for a grant that came late: %+v, %v", reply, err)
		}
	}
}

// question is what the C library asks.
func question(kind uint32, name string) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.NativeEndian, []uint32{nscdVersion, kind, uint32(len(name) + 1)})
	b.WriteString(name + "\x00")
	return b.Bytes()
}

// What the C library is told: addresses that the list permits at each port of the name, and otherwise that there is no such name.
func TestNames(t *testing.T) {
	resolver := nameServer(t, map[string][]string{
		"db.internal":   {"10.0.0.7", "fd00::7"},
		"half.internal": {"10.0.0.8", "169.254.170.2", "127.0.0.1"},
		"meta.internal": {"169.254.169.254"},
		"more.internal": {"10.0.0.9"},
		"loop.internal": {"127.0.0.1"},
	})
	b := startFront(t, Config{
		Resolver: resolver, Allow: mustAllow(t, "db.internal:5432,half.internal:5432,half.internal:6379,meta.internal:80,10.0.0.9:80,loop.internal:80,127.0.0.1:80"),
	})
	for name, want := range map[string]string{
		"db.internal": "10.0.0.7 fd00::7", "DB.internal.": "10.0.0.7 fd00::7", "half.internal": "10.0.0.8", "meta.internal": "",
		"more.internal": "", "loop.internal": "", "10.0.0.9": "", "": "", "x y": "",
	} {
		if got := ask(t, b, question(nscdGetAI, name)); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if r := b.log.wait(t, audit.Denied, 1); r.Request != requestName {
		t.Errorf("%+v", r)
	}
	for _, other := range [][]byte{question(4, "db.internal"), question(nscdGetAI, strings.Repeat("a", 300)), {1, 2, 3}} {
		if got := ask(t, b, other); got != "silence" {
			t.Errorf("%x: %q", other, got)
		}
	}
}

// ask asks as the C library does, and returns the addresses of the answer.
func ask(t *testing.T, b *bastion, question []byte) string {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(filepath.Dir(b.config.Socket), nameSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(question); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	reply, err := io.ReadAll(conn)
	if err != nil || len(reply) == 0 {
		return "silence" // closed, with or without the question read
	}
	var answer nscdAnswer
	rest := bytes.NewReader(reply)
	if err := binary.Read(rest, binary.NativeEndian, &answer); err != nil {
		t.Fatal(err)
	}
	all := make([]byte, answer.AddressBytes)
	families := make([]byte, answer.Count)
	if _, err := io.ReadFull(rest, all); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(rest, families); err != nil || rest.Len() > 0 || (answer.Found == 1) != (answer.Count > 0) {
		t.Fatalf("%+v, %v", answer, err)
	}
	var texts []string
	for _, family := range families {
		size := map[byte]int{afINET: 4, afINET6: 16}[family]
		addr, _ := netip.AddrFromSlice(all[:size])
		texts, all = append(texts, addr.String()), all[size:]
	}
	return strings.Join(texts, " ")
}

// A line of sshd's is about what its begin says, whatever a client has put into the rest.
func TestSSHDLog(t *testing.T) {
	b := startFront(t, Config{Allow: mustAllow(t, "db.internal:5432")})
	p := b.grant(t)
	near, far := net.Pipe()
	defer far.Close()
	c := &client{server: b.Server, number: 7, wire: newWire(near)}
	l := &sshdLog{client: c, s: b.Server, channels: make(map[string]*sshdChannel)}
	lines := func(texts ...string) { l.read(strings.NewReader(strings.Join(texts, "\n") + "\n")) }

	fingerprint := ssh.FingerprintSHA256(p.PublicKey())
	lines("Invalid user Accepted publickey for bastion from UNKNOWN port 1 ssh2: ED25519 " + fingerprint + " from UNKNOWN port 65535")
	if l.signed {
		t.Fatal("a user's name signs in")
	}
	lines("Accepted publickey for bastion from UNKNOWN port 65535 ssh2: ED25519 " + fingerprint)
	if !l.signed {
		t.Fatal("not signed in")
	}
	defer b.detach(c)
	const at = "debug1: serverloop.c:server_request_direct_tcpip():453 (pid=1): "
	lines(at+"originator x port 1, target fake port 1, target db.internal port 5432",
		"debug1: channels.c:connect_next():4564 (pid=1): connect host db.internal ([10.0.0.7]:5432) in progress, fd=5",
		"debug1: channels.c:channel_new():503 (pid=1): channel 0: new direct-tcpip [direct-tcpip] (inactive timeout: 0)",
		"debug1: channels.c:channel_post_connecting():1994 (pid=1): channel 0: connected to db.internal port 5432",
		"debug1: serverloop.c:server_input_channel_open():635 (pid=1): ctype channels.c:channel_free():1 (pid=1): channel 0: free: x rchan 0 win 1 max 1",
		strings.Repeat("a", 2*maxLogLine)+"channels.c:channel_free():1 (pid=1): channel 0: free: x",
	)
	r := b.log.wait(t, audit.Connect, 1)
	if r.Destination != "db.internal:5432" || r.Address != "10.0.0.7:5432" || r.Who != arn || r.Conn != 7 || r.Channel != 1 {
		t.Errorf("%+v", r)
	}
	if n := b.log.count(t, audit.Close); n != 0 {
		t.Error("a client's words close a channel")
	}
	lines(at+"originator x port 1, target db.internal port 5432",
		"debug1: channels.c:channel_new():503 (pid=1): channel 1: new direct-tcpip [direct-tcpip] (inactive timeout: 0)",
		"debug1: channels.c:channel_post_connecting():2012 (pid=1): channel 1: connection failed: Connection refused",
		"debug1: channels.c:channel_free():721 (pid=1): channel 1: free: direct-tcpip, nchannels 1",
	)
	if r := b.log.wait(t, audit.Connect, 2); r.Result != audit.Failed || r.Reason != "cannot connect: connection refused" || r.Channel != 2 {
		t.Errorf("%+v", r)
	}
	if c.open != 1 {
		t.Errorf("%d channels are open", c.open)
	}
	l.end()
	if b.log.wait(t, audit.Close, 1); c.open != 0 || b.log.count(t, audit.Close) != 1 {
		t.Errorf("%d channels are open", c.open)
	}

	// A connection that begins while the bastion drains does not keep it. A mark that only clients without a sign-in can have is not taken
	// off.
	b.mu.Lock()
	b.draining = true
	b.mu.Unlock()
	lines(at+"originator x port 1, target db.internal port 5432",
		"debug1: channels.c:channel_new():503 (pid=1): channel 2: new direct-tcpip [direct-tcpip] (inactive timeout: 0)",
		"debug1: channels.c:channel_post_connecting():1994 (pid=1): channel 2: connected to db.internal port 5432",
		"debug1: channels.c:channel_post_connecting():2012 (pid=1): channel 3: connection failed: x [preauth]",
	)
	if r := b.log.wait(t, audit.Connect, 3); r.Channel != 3 || r.Result != audit.OK {
		t.Errorf("%+v", r)
	}
	b.mu.Lock()
	if c.open != 0 || b.open != 0 {
		t.Errorf("%d channels keep the bastion, %d its client", b.open, c.open)
	}
	b.mu.Unlock()
	l.channels["4"] = &sshdChannel{number: 9, late: true}
	lines("debug1: channels.c:channel_post_connecting():2012 (pid=1): channel 4: connection failed: x [preauth]")
	if r := b.log.wait(t, audit.Connect, 4); r.Reason != "cannot connect: x [preauth]" {
		t.Errorf("%+v", r)
	}
	l.end()
	if b.log.wait(t, audit.Close, 2); c.open != 0 {
		t.Errorf("%d channels are open", c.open)
	}
}

// Without its program no connection is served, and the log says so.
func TestSSHDMissing(t *testing.T) {
	b := startFront(t, Config{Allow: mustAllow(t, "db.internal:5432")})
	if _, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), b.clientConfig(pair(t))); err == nil {
		t.Error("connected")
	}
	if r := b.log.wait(t, audit.AuthRefused, 1); !strings.Contains(r.Reason, "/nonexistent/sshd") {
		t.Errorf("%+v", r)
	}
}

// An sshd that does not say who has signed in, because its lines are other ones, keeps no connection: no grant's end would end it.
func TestSSHDSilent(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sshd")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho Signed in: bastion >&2\nexec cat\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := startFront(t, Config{Allow: mustAllow(t, "db.internal:5432"), HandshakeTimeout: time.Second, SSHD: &SSHD{Program: program}})
	conn, err := net.Dial("tcp", b.listeners[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.Copy(io.Discard, conn); err != nil { // until the server ends it
		t.Error(err)
	}
	if r := b.log.wait(t, audit.AuthRefused, 1); r.Reason != "sshd has not reported a sign-in in time" {
		t.Errorf("%+v", r)
	}
}

func TestSSHDConfig(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "s.sock")
	for name, c := range map[string]Config{
		"a pattern":    {Socket: socket, Allow: mustAllow(t, "*.internal:5432")},
		"no socket":    {},
		"a bond port":  {Socket: socket, BondListen: "localhost:0"},
		"own host key": {Socket: socket, HostKey: pair(t).Signer()},
	} {
		c.Listen, c.SSHD = "localhost:0", &SSHD{}
		s, err := New(c)
		if err == nil {
			_ = s.Close()
		}
		if _, ok := err.(*ConfigError); !ok { //nolint:errorlint // it is not wrapped
			t.Errorf("%s: %v", name, fmt.Sprint(err))
		}
	}
}
