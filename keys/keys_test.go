package keys

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

const arn = "arn:aws:sts::000000000000:assumed-role/developer/ada@example.org"

func TestPairSigns(t *testing.T) {
	p := newPair(t)
	key, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(p.AuthorizedKey()))
	if err != nil || comment != "test" || key.Type() != ssh.KeyAlgoED25519 {
		t.Fatalf("authorized key %q: %v, comment %q", p.AuthorizedKey(), err, comment)
	}
	sig, err := p.Signer().Sign(nil, []byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Verify([]byte("data"), sig); err != nil {
		t.Error(err)
	}
}

func TestPairPrintsNoPrivateKey(t *testing.T) {
	p := newPair(t)
	want := ssh.FingerprintSHA256(p.PublicKey())
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		if got := fmt.Sprintf(verb, p); got != want {
			t.Errorf("%s prints %q, want the fingerprint", verb, got)
		}
	}
}

func TestNewPairRefusesComments(t *testing.T) {
	for _, comment := range []string{"a\nssh-ed25519 AAAA", "caf\u00e9", "\x00", strings.Repeat("x", maxComment+1)} {
		if _, err := NewPair(comment); err == nil {
			t.Errorf("comment %q was accepted", comment)
		}
	}
}

func TestGrantRoundTrip(t *testing.T) {
	p := newPair(t)
	before := time.Now()
	g, err := NewGrant(p.PublicKey(), arn, []string{"*.rds.amazonaws.com:5432", "10.0.0.0/8:*"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if d := g.NotAfter.Sub(before); d > time.Hour || d < time.Hour-2*time.Second {
		t.Errorf("not after %v from now, want an hour", d)
	}
	word, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[A-Za-z0-9_.-]+$`).MatchString(word) {
		t.Errorf("%q needs quoting", word)
	}
	got, err := ParseGrant(word)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(g, got); d != "" {
		t.Error(d)
	}
	key, err := got.Key()
	if err != nil || !bytes.Equal(key.Marshal(), p.PublicKey().Marshal()) {
		t.Errorf("key %v, %v", key, err)
	}
}

func TestNewGrantRefuses(t *testing.T) {
	pub := newPair(t).PublicKey()
	tests := map[string]struct {
		who    string
		permit []string
		ttl    time.Duration
	}{
		"no principal":        {"", nil, time.Hour},
		"line in principal":   {"arn\nroot", nil, time.Hour},
		"long principal":      {strings.Repeat("a", maxPrincipal+1), nil, time.Hour},
		"no time":             {arn, nil, 0},
		"negative time":       {arn, nil, -time.Hour},
		"too much time":       {arn, nil, 200 * 365 * 24 * time.Hour},
		"empty pattern":       {arn, []string{""}, time.Hour},
		"two in one pattern":  {arn, []string{"a:1,b:2"}, time.Hour},
		"too many patterns":   {arn, make([]string, MaxPermits+1), time.Hour},
		"control in pattern":  {arn, []string{"a\x1b:1"}, time.Hour},
		"pattern is too long": {arn, []string{strings.Repeat("a", maxPermit) + ":1"}, time.Hour},
	}
	for name, tt := range tests {
		if g, err := NewGrant(pub, tt.who, tt.permit, tt.ttl); err == nil {
			t.Errorf("%s: got %+v, want an error", name, g)
		}
	}
}

func TestEncodeRefusesLongGrants(t *testing.T) {
	permit := make([]string, MaxPermits)
	for i := range permit {
		permit[i] = strings.Repeat("a", 200) + ":1"
	}
	g, err := NewGrant(newPair(t).PublicKey(), arn, permit, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if word, err := g.Encode(); err == nil {
		t.Errorf("a word of %d bytes, want an error", len(word))
	}
}

// grantWord makes a word of any JSON text.
func grantWord(json string) string {
	return grantPrefix + base64.RawURLEncoding.EncodeToString([]byte(json))
}

// secretWord makes a word of a grant's JSON text and a secret in base64.
func secretWord(json, secret string) string {
	word := grantWord(strings.TrimSuffix(json, "}") + `,"secret":"` + secret + `"}`)
	return secretPrefix + strings.TrimPrefix(word, grantPrefix)
}

// spare is the word of a JSON text, its last character spelt in the other way that base64 leaves open.
func spare(t *testing.T, json string) string {
	t.Helper()
	for len(json)%3 != 1 { // then 4 of the last character's bits are spare
		json = strings.Replace(json, `"who":"`, `"who":"w`, 1)
	}
	word := grantWord(json)
	if _, err := ParseGrant(word); err != nil {
		t.Fatal(err)
	}
	return word[:len(word)-1] + string(word[len(word)-1]+1)
}

func TestParseGrantRefuses(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	good := `{"id":"i","key":"` + key + `","who":"w","not_after":"2030-01-02T03:04:05Z"}`
	if _, err := ParseGrant(grantWord(good)); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	if _, err := ParseGrant(secretWord(good, strings.Repeat("A", 42)+"E")); err != nil {
		t.Fatalf("the good one with a secret: %v", err)
	}
	swap := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("%q is not in the good grant", from)
		}
		return grantWord(strings.Replace(good, from, to, 1))
	}
	tests := map[string]string{
		"empty":               "",
		"no version":          strings.TrimPrefix(grantWord(good), grantPrefix),
		"other version":       "v3" + strings.TrimPrefix(grantWord(good), "v1"),
		"secret missing":      "v2" + strings.TrimPrefix(grantWord(good), "v1"),
		"secret in version 1": swap(`}`, `,"secret":"`+strings.Repeat("A", 42)+`E"}`),
		"zero secret":         secretWord(good, strings.Repeat("A", 43)),
		"short secret":        secretWord(good, strings.Repeat("A", 41)+"E"),
		"long secret":         secretWord(good, strings.Repeat("A", 43)+"E"),
		"secret's spare bits": secretWord(good, strings.Repeat("A", 42)+"F"),
		"secret not base64":   secretWord(good, strings.Repeat("!", 43)),
		"padding":             grantWord(good) + "=",
		"not base64":          "v1.!!!!",
		"line end in base64":  grantWord(good)[:40] + "\n" + grantWord(good)[40:],
		"no JSON":             grantWord("ssh-ed25519"),
		"empty object":        grantWord("{}"),
		"null":                grantWord("null"),
		"white space":         grantWord(good + " "),
		"two values":          grantWord(good + good),
		"unknown field":       swap(`{`, `{"shell":true,`),
		"field twice":         swap(`{`, `{"id":"j",`),
		"field in other case": swap(`"id"`, `"ID"`),
		"fields in any order": swap(`"id":"i","key":"`+key+`"`, `"key":"`+key+`","id":"i"`),
		"id with a line end":  swap(`"i"`, `"i\n"`),
		"empty permit":        swap(`,"not`, `,"permit":[],"not`),
		"key with options":    swap(key, `command=\"sh\" `+key),
		"key with a comment":  swap(key, key+" me"),
		"key with a line end": swap(key, key+`\n`),
		"two keys":            swap(key, key+`\n`+key),
		"key of other type":   swap("ssh-ed25519 ", "ssh-rsa "),
		"short key":           swap("AAAAAAAAAA\"", "\""),
		"time zone":           swap("05Z", "05+01:00"),
		"UTC spelt +00:00":    swap("05Z", "05+00:00"),
		"spare bits set":      spare(t, good),
		"part of a second":    swap("05Z", "05.5Z"),
		"year 1":              swap("2030", "0001"),
		"long":                "v1." + strings.Repeat("A", MaxGrantWord),
	}
	for name, word := range tests {
		if g, err := ParseGrant(word); err == nil {
			t.Errorf("%s: got %+v, want an error", name, g)
		}
	}
}

func TestParseGrantWantsEd25519(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewGrant(key, arn, nil, time.Hour); err == nil {
		t.Error("a key of another type was granted")
	}
	text := `{"id":"i","key":"` + authorizedKey(key) + `","who":"w","not_after":"2030-01-02T03:04:05Z"}`
	if _, err := ParseGrant(grantWord(text)); err == nil || !strings.Contains(err.Error(), "ecdsa") {
		t.Errorf("error %v, want one that names the type", err)
	}
}

func TestFindGrantReply(t *testing.T) {
	p := newPair(t)
	good := GrantReply{
		V: ReplyVersion, Version: "1.0", HostKey: authorizedKey(p.PublicKey()), Ports: Ports{SSH: 2222}, Grant: "id",
		NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	bonded := good
	bonded.Ports.Bond = 2223
	refused := GrantReply{V: ReplyVersion, Version: "1.0", Error: "no \"room\"\r\nBASTIOND-GRANT {}", Code: CodeFull}
	const noise = "\r\nThe Session Manager plugin was installed\x1b[0m\r\n\x00{}\r\n"

	for name, tt := range map[string]struct {
		output string
		want   GrantReply
		found  bool
		fails  bool
	}{
		"alone":              {good.Line(), good, true, false},
		"in pty output":      {noise + good.Line() + "\r\n" + noise, good, true, false},
		"mark not at start":  {"\x1b[0m" + good.Line() + "\n", good, true, false},
		"refused":            {noise + refused.Line() + "\r\n", refused, true, false},
		"nothing":            {"", GrantReply{}, false, false},
		"noise":              {noise, GrantReply{}, false, false},
		"part of a line":     {noise + good.Line()[:60], GrantReply{}, false, false},
		"line cut short":     {noise + good.Line()[:60] + "\r\n", GrantReply{}, false, true},
		"newer field":        {strings.Replace(good.Line(), "{", `{"shape":7,`, 1), good, true, false},
		"bond port":          {bonded.Line(), bonded, true, false},
		"bond port too high": {strings.Replace(bonded.Line(), "2223", "65536", 1), GrantReply{}, false, true},
		"bond port negative": {strings.Replace(bonded.Line(), "2223", "-1", 1), GrantReply{}, false, true},
		"version 2":          {strings.Replace(good.Line(), `"v":1`, `"v":2`, 1), GrantReply{}, false, true},
		"no host key":        {strings.Replace(good.Line(), good.HostKey, "", 1), GrantReply{}, false, true},
		"no port":            {strings.Replace(good.Line(), "2222", "0", 1), GrantReply{}, false, true},
		"port out of range":  {strings.Replace(good.Line(), "2222", "65536", 1), GrantReply{}, false, true},
		"no grant id":        {strings.Replace(good.Line(), `"id"`, `""`, 1), GrantReply{}, false, true},
		"code, no error":     {strings.Replace(good.Line(), `{`, `{"code":"x",`, 1), GrantReply{}, false, true},
		"endless line":       {replyMarker + strings.Repeat("{", maxReply+1), GrantReply{}, false, true},
		"two values in line": {good.Line() + "{}\n", GrantReply{}, false, true},
	} {
		got, found, err := FindGrantReply([]byte(tt.output))
		if found != tt.found || (err != nil) != tt.fails {
			t.Errorf("%s: found %v, error %v", name, found, err)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// A reader may ask after every piece of output that comes.
func TestFindGrantReplyByPieces(t *testing.T) {
	p := newPair(t)
	want := GrantReply{V: ReplyVersion, HostKey: authorizedKey(p.PublicKey()), Ports: Ports{SSH: 1}, Grant: "id"}
	output := "noise\r\n" + want.Line() + "\r\n"
	whole := len("noise\r\n" + want.Line())
	for n := range len(output) + 1 {
		_, found, err := FindGrantReply([]byte(output[:n]))
		if err != nil || found != (n >= whole) {
			t.Fatalf("%d of %d bytes: found %v, error %v", n, len(output), found, err)
		}
	}
}

// A bastiond without a bond port answers as those did that knew none.
func TestNoBondPort(t *testing.T) {
	line := GrantReply{V: ReplyVersion, HostKey: authorizedKey(newPair(t).PublicKey()), Ports: Ports{SSH: 1}, Grant: "id"}.Line()
	if !strings.Contains(line, `"ports":{"ssh":1}`) {
		t.Error(line)
	}
}

func TestLineIsOneLine(t *testing.T) {
	for _, r := range []GrantReply{
		{Error: "a\nb\r\u2028c", Version: "\x1b[2J"},
		{NotAfter: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if strings.ContainsFunc(r.Line(), notPrintable) {
			t.Errorf("%q", r.Line())
		}
	}
}

// A real handshake: the client must give up before it sends anything that depends on who the server is.
func TestPinnedHostKey(t *testing.T) {
	server, other, user := newPair(t), newPair(t), newPair(t)
	for name, tt := range map[string]struct {
		pin *Pair
		ok  bool
	}{"right key": {server, true}, "wrong key": {other, false}} {
		t.Run(name, func(t *testing.T) {
			var asked bool
			config := &ssh.ServerConfig{
				PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
					asked = true
					return &ssh.Permissions{}, nil
				},
				NoClientAuthCallback: func(ssh.ConnMetadata) (*ssh.Permissions, error) {
					asked = true
					return nil, errors.New("no")
				},
			}
			config.AddHostKey(server.Signer())
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			served := make(chan error, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					served <- err
					return
				}
				defer conn.Close()
				sc, chans, reqs, err := ssh.NewServerConn(conn, config)
				if err == nil {
					go ssh.DiscardRequests(reqs)
					for ch := range chans {
						_ = ch.Reject(ssh.Prohibited, "")
					}
					_ = sc.Wait()
				}
				served <- err
			}()

			client, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{
				User: "bastion", Auth: []ssh.AuthMethod{ssh.PublicKeys(user.Signer())},
				HostKeyCallback: PinnedHostKey(tt.pin.PublicKey()), Timeout: 10 * time.Second,
			})
			if client != nil {
				client.Close()
			}
			serverErr := <-served
			if tt.ok {
				if err != nil || serverErr != nil {
					t.Errorf("client: %v, server: %v", err, serverErr)
				}
				return
			}
			var bad *HostKeyError
			if !errors.As(err, &bad) {
				t.Fatalf("error %v, want a *HostKeyError", err)
			}
			want := HostKeyError{
				Host: l.Addr().String(),
				Want: ssh.FingerprintSHA256(other.PublicKey()), Got: ssh.FingerprintSHA256(server.PublicKey()),
			}
			if d := cmp.Diff(want, *bad); d != "" {
				t.Error(d)
			}
			if serverErr == nil || asked {
				t.Errorf("the client went on to authenticate (server: %v)", serverErr)
			}
		})
	}
}

func TestKnownHostsLine(t *testing.T) {
	key := newPair(t).PublicKey()
	for _, tt := range []struct {
		host, want string
		port       int
	}{
		{"bastion", "bastion ", 22},
		{"bastion", "[bastion]:2222 ", 2222},
		{"::1", "::1 ", 22},
		{"::1", "[::1]:2222 ", 2222},
	} {
		line := KnownHostsLine(tt.host, tt.port, key)
		if !strings.HasPrefix(line, tt.want+ssh.KeyAlgoED25519+" ") {
			t.Errorf("%s %d: %q", tt.host, tt.port, line)
		}
		if _, hosts, _, _, _, err := ssh.ParseKnownHosts([]byte(line)); err != nil || len(hosts) != 1 ||
			hosts[0] != knownhosts.Normalize(net.JoinHostPort(tt.host, fmt.Sprint(tt.port))) {
			t.Errorf("%q: %v, %v", line, hosts, err)
		}
	}
}

// serveAgent runs ServeAgent on a unix socket and returns its path. At the end of the test it must return nil.
func serveAgent(t *testing.T, p *Pair) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ServeAgent(ctx, l, p.Signer()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeAgent: %v", err)
		}
	})
	return path
}

func TestServeAgent(t *testing.T) {
	p := newPair(t)
	conn, err := net.Dial("unix", serveAgent(t, p))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := agent.NewClient(conn)

	list, err := client.List()
	if err != nil || len(list) != 1 || !bytes.Equal(list[0].Blob, p.PublicKey().Marshal()) {
		t.Fatalf("list: %v, %v", list, err)
	}
	sig, err := client.Sign(p.PublicKey(), []byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.PublicKey().Verify([]byte("data"), sig); err != nil {
		t.Error(err)
	}
	if _, err := client.Sign(newPair(t).PublicKey(), []byte("data")); err == nil {
		t.Error("it signed for a key that it does not have")
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"add":        client.Add(agent.AddedKey{PrivateKey: private}),
		"remove":     client.Remove(p.PublicKey()),
		"remove all": client.RemoveAll(),
		"lock":       client.Lock([]byte("x")),
		"unlock":     client.Unlock([]byte("x")),
	} {
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if list, err := client.List(); err != nil || len(list) != 1 {
		t.Errorf("afterwards: %v, %v", list, err)
	}
}

// A client that sends nonsense loses its own connection and nothing else.
func TestServeAgentBadClient(t *testing.T) {
	p := newPair(t)
	path := serveAgent(t, p)
	for _, request := range []string{"\x00\x00\x00\x00", "\xff\xff\xff\xff", "GET / HTTP/1.1\r\n\r\n"} {
		bad, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(bad, request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, bad); err != nil {
			t.Logf("%q: %v", request, err)
		}
		bad.Close()
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if list, err := agent.NewClient(conn).List(); err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestServeAgentListenerFails(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := ServeAgent(context.Background(), l, newPair(t).Signer()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v, want the listener's", err)
	}
}
