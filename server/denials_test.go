package server

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/keys"
)

func TestNoGrant(t *testing.T) {
	b := start(t, Config{})
	b.grant(t)
	stranger := pair(t)
	if _, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), b.clientConfig(stranger)); err == nil {
		t.Fatal("a key without a grant was accepted")
	}
	r := b.log.wait(t, audit.AuthRefused, 1)
	if r.Reason != errNoGrant.Error() || r.Key != ssh.FingerprintSHA256(stranger.PublicKey()) || r.User != "ada" {
		t.Errorf("%+v", r)
	}
}

func TestOtherAuthenticationIsRefused(t *testing.T) {
	b := start(t, Config{})
	for name, auth := range map[string][]ssh.AuthMethod{
		"none":     nil,
		"password": {ssh.Password("secret-password")},
		"interactive": {ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) {
			return nil, nil
		})},
	} {
		config := b.clientConfig(pair(t))
		config.Auth = auth
		if _, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), config); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	b.log.wait(t, audit.AuthRefused, 3)
	if s := b.log.String(); strings.Contains(s, "secret-password") {
		t.Errorf("the audit log has a secret:\n%s", s)
	}
}

func TestExpiredGrant(t *testing.T) {
	b := start(t, Config{})
	p := b.grant(t)
	b.mu.Lock()
	for g := range b.slots {
		g.grant.NotAfter = time.Now().Add(-time.Second)
	}
	b.mu.Unlock()
	if _, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), b.clientConfig(p)); err == nil {
		t.Fatal("an expired grant was accepted")
	}
	if r := b.log.wait(t, audit.AuthRefused, 1); r.Reason != errGrantExpired.Error() {
		t.Errorf("%+v", r)
	}
}

// A grant that has just ended lets nothing more happen, even before its connections are ended.
func TestEndedGrantOpensNothing(t *testing.T) {
	b := start(t, Config{Allow: mustAllow(t, "10.0.0.0/8:*"), Dial: newDialed(t).dial})
	c := b.dial(t, b.grant(t))
	connect(t, c, "10.0.0.1:80") // the connection is attached
	b.mu.Lock()
	var ended *slot
	for g := range b.slots {
		g.grant.NotAfter = time.Now().Add(-time.Second)
		ended = g
	}
	b.mu.Unlock()
	wantRefused(t, c, "10.0.0.1:80", ssh.Prohibited, errGrantExpired.Error())
	if err := b.attach(&client{server: b.Server, slot: ended}); !errors.Is(err, errGrantExpired) {
		t.Errorf("a connection whose handshake outlived the grant: %v", err)
	}
}

func TestRefusedGrants(t *testing.T) {
	b := start(t, Config{MaxGrants: 2})
	p := pair(t)
	if r := b.AddGrant("v1.nonsense"); r.Code != "invalid" || r.Error == "" {
		t.Errorf("nonsense: %+v", r)
	}
	if r := b.AddGrant(word(t, p, time.Hour, "10.0.0.0/8")); r.Code != "invalid" || !strings.Contains(r.Error,
		"HOST:PORT") {
		t.Errorf("a bad pattern: %+v", r)
	}
	if r := b.AddGrant(word(t, p, time.Hour, "169.254.169.254:80")); r.Code != "invalid" {
		t.Errorf("a pattern that can never be permitted: %+v", r)
	}
	b.grant(t)
	b.grant(t)
	full := b.AddGrant(word(t, p, time.Hour))
	if full.Code != "full" || full.Error == "" || full.HostKey != "" {
		t.Errorf("a grant too many: %+v", full)
	}
	if n := b.log.count(t, audit.GrantRefused); n != 4 {
		t.Errorf("%d refusals in the audit log:\n%s", n, b.log)
	}
	if _, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), b.clientConfig(p)); err == nil {
		t.Error("a refused grant lets its key in")
	}
}

// An ended grant makes room for a new one.
func TestEndedGrantsMakeRoom(t *testing.T) {
	b := start(t, Config{MaxGrants: 1})
	b.grant(t)
	b.mu.Lock()
	for g := range b.slots {
		g.grant.NotAfter = time.Now().Add(-time.Second)
	}
	b.mu.Unlock()
	b.dial(t, b.grant(t))
	if h := b.health(); h.Grants != 1 {
		t.Errorf("%d grants", h.Grants)
	}
}

// Keys that were used and are away make room for new ones, the longest away first; keys in use and unused ones do not.
func TestGrantsThatAreAwayMakeRoom(t *testing.T) {
	b := start(t, Config{MaxGrants: 4})
	inUse, unused, first, second := b.grant(t), b.grant(t), b.grant(t), b.grant(t)
	b.dial(t, inUse)
	b.log.wait(t, audit.Auth, 1)
	away := func(p *keys.Pair) *slot {
		b.mu.Lock()
		defer b.mu.Unlock()
		if g := b.slotOf(p.PublicKey().Marshal()); !g.left.IsZero() {
			return g
		}
		return nil
	}
	for _, p := range []*keys.Pair{first, second} {
		if err := b.dial(t, p).Close(); err != nil {
			t.Fatal(err)
		}
		until(t, func() error {
			if away(p) == nil {
				return errors.New("the connection has not ended yet")
			}
			return nil
		})
	}
	forgotten := away(first)

	b.grant(t)
	if _, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), b.clientConfig(first)); err == nil {
		t.Error("the key that was away for longest still has its grant")
	}
	if err := b.attach(&client{slot: forgotten}); !errors.Is(err, errNoGrant) {
		t.Errorf("a client whose grant was forgotten during its handshake: %v", err)
	}
	for _, p := range []*keys.Pair{inUse, unused, second} {
		b.dial(t, p)
	}
	b.log.wait(t, audit.Auth, 6) // a client knows that it is in before it is counted
	if r := b.AddGrant(word(t, pair(t), time.Hour)); r.Code != keys.CodeFull {
		t.Errorf("with every key in use or yet to come: %+v", r)
	}
}

// A new grant for a key takes the place of the old, for live connections too.
func TestGrantIsReplaced(t *testing.T) {
	d := newDialed(t)
	b := start(t, Config{Allow: mustAllow(t, "10.0.0.0/8:*"), Dial: d.dial, MaxGrants: 1})
	p := pair(t)
	first := b.AddGrant(word(t, p, time.Hour, "10.0.0.1:80"))
	c := b.dial(t, p)
	connect(t, c, "10.0.0.1:80")
	wantRefused(t, c, "10.0.0.2:80", ssh.Prohibited, "the grant does not permit it")
	second := b.AddGrant(word(t, p, time.Hour, "10.0.0.2:80"))
	if first.Error+second.Error != "" {
		t.Fatal(first.Error, second.Error)
	}
	connect(t, c, "10.0.0.2:80")
	wantRefused(t, c, "10.0.0.1:80", ssh.Prohibited, "the grant does not permit it")
	if r := b.log.wait(t, audit.Grant, 2); r.Replaces != first.Grant || r.Grant != second.Grant {
		t.Errorf("%+v", r)
	}
}

func TestGrantEndsWithTheServer(t *testing.T) {
	b := start(t, Config{MaxLife: time.Hour})
	r := b.AddGrant(word(t, pair(t), 100*time.Hour))
	if r.Error != "" || r.NotAfter.After(b.expiresAt) || r.NotAfter.Before(b.expiresAt.Add(-time.Second)) {
		t.Errorf("%+v, want not after %v", r, b.expiresAt)
	}
}

// A grant can only narrow what the server allows.
func TestGrantNarrows(t *testing.T) {
	d := newDialed(t)
	b := start(t, Config{
		Allow: mustAllow(t, "10.0.0.0/8:*,*.internal:5432,127.0.7.0/24:5432"), Dial: d.dial,
		Resolver: nameServer(t, map[string][]string{
			"db.internal": {"192.0.2.1"}, "other.internal": {"192.0.2.2"}, "local.internal": {"127.0.7.1"},
		}),
	})
	c := b.dial(t, b.grant(t, "*:22", "db.internal:*", "local.internal:5432", "127.0.0.0/8:*", "192.0.2.2:22"))
	for _, address := range []string{"10.0.0.1:22", "db.internal:5432", "local.internal:5432", "127.0.7.9:5432"} {
		connect(t, c, address)
	}
	for address, reason := range map[string]string{
		"10.0.0.1:23":         "the grant does not permit it",
		"other.internal:5432": "the grant does not permit it",
		"db.internal:5433":    "no entry of the allow-list permits it",
		"192.0.2.2:22":        "no entry of the allow-list permits it",
		"127.0.0.1:80":        "loopback",
	} {
		wantRefused(t, c, address, ssh.Prohibited, reason)
	}
}

// What the image does not allow, no setting allows.
func TestLimit(t *testing.T) {
	d := newDialed(t)
	limit := mustAllow(t, "*.internal:*,10.0.0.0/8:22,127.0.7.1:80")
	b := &bastion{log: newAuditLog(), done: make(chan error, 1)}
	config := Config{
		Listen: "localhost:0", Allow: mustAllow(t, everything), Limit: &limit, Dial: d.dial, Audit: b.log,
	}
	var err error
	if b.Server, err = New(config); err != nil {
		t.Fatal(err)
	}
	// In the place of the system's.
	config.Resolver = nameServer(t, map[string][]string{
		"db.internal": {"192.0.2.1"}, "evil.internal": {"127.0.0.1"},
		"db.test": {"192.0.2.2"},
	})
	if b.resolver, b.resolvers, err = newResolver(config.Resolver); err != nil {
		t.Fatal(err)
	}
	b.run(t)
	c := b.dial(t, b.grant(t, "*:*"))
	for _, address := range []string{"db.internal:5432", "10.0.0.1:22", "127.0.7.1:80"} {
		connect(t, c, address)
	}
	for _, address := range []string{"db.test:5432", "10.0.0.1:23", "192.0.2.1:5432", "127.0.7.1:81", "evil.internal:80"} {
		wantRefused(t, c, address, ssh.Prohibited, "allow-list")
	}
	if got := d.list(); len(got) != 3 {
		t.Errorf("dialed %v", got)
	}

	// A resolver of somebody's choice would give the limit's names any address.
	var refused *ConfigError
	if _, err := New(config); !errors.As(err, &refused) || !strings.Contains(err.Error(), "system's resolver") {
		t.Errorf("names in the limit and a resolver of one's own: %v", err)
	}
	numbers := mustAllow(t, "10.0.0.0/8:22,*:80")
	config.Limit = &numbers
	s, err := New(config)
	if err != nil {
		t.Fatalf("no names in the limit: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// The destination is what the name stands for, whatever the name is.
func TestResolvedAddressIsChecked(t *testing.T) {
	hosts := map[string][]string{
		"credentials.test": {"169.254.170.2"},
		"metadata.test":    {"169.254.169.254"},
		"loopback.test":    {"127.0.0.1"},
		"loopback6.test":   {"::1"},
		"mapped.test":      {"::ffff:169.254.169.254"},
		"nat64.test":       {"64:ff9b::a9fe:aa02"},
		"linklocal.test":   {"fe80::1"},
		"ec2.test":         {"fd00:ec2::254"},
		"any.test":         {"0.0.0.0"},
		"any6.test":        {"::"},
		"multicast.test":   {"224.0.0.1"},
		"all.test":         {"169.254.169.254", "127.0.0.1", "::1", "fe80::1"},
		"resolver.test":    {"127.0.0.1"},
		"good.test":        {"10.1.2.3"},
		"mixed.test":       {"169.254.169.254", "10.1.2.4", "127.0.0.1"},
	}
	for _, allow := range []string{"*.test:80", "*:80", "0.0.0.0/0:80,[::/0]:80"} {
		t.Run(allow, func(t *testing.T) {
			d := newDialed(t)
			b := start(t, Config{Allow: mustAllow(t, allow), Resolver: nameServer(t, hosts), Dial: d.dial})
			c := b.dial(t, b.grant(t))
			refused := 0
			for name, addrs := range hosts {
				if name == "good.test" || name == "mixed.test" {
					continue
				}
				wantRefused(t, c, name+":80", ssh.Prohibited, "destination "+name+":80")
				refused++
				r := b.log.wait(t, audit.Denied, refused)
				addr := netip.MustParseAddrPort(r.Address).Addr()
				if r.Destination != name+":80" || r.Result != audit.Refused || !contains(addrs, addr) {
					t.Errorf("%+v", r)
				}
			}
			if got := d.list(); len(got) > 0 {
				t.Fatalf("dialed %v", got)
			}
			connect(t, c, "good.test:80")
			connect(t, c, "GOOD.test.:80")
			connect(t, c, "mixed.test:80") // by the one address that is permitted
			want := []string{"10.1.2.3:80", "10.1.2.3:80", "10.1.2.4:80"}
			if got := d.list(); strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("dialed %v, want %v", got, want)
			}
			if r := b.log.wait(t, audit.Connect, 1); r.Destination != "good.test:80" || r.Address != "10.1.2.3:80" {
				t.Errorf("%+v", r)
			}
		})
	}
}

func contains(addrs []string, addr netip.Addr) bool {
	for _, a := range addrs {
		if netip.MustParseAddr(a).Unmap() == addr {
			return true
		}
	}
	return false
}

func TestAddressesAreChecked(t *testing.T) {
	d := newDialed(t)
	b := start(t, Config{Allow: mustAllow(t, everything), Resolver: "127.0.0.1:1", Dial: d.dial})
	c := b.dial(t, b.grant(t))
	for _, host := range []string{
		"169.254.169.254", "169.254.170.2", "::ffff:169.254.169.254", "::ffff:a9fe:aa02", "fe80::1", "fe80::1%lo",
		"fd00:ec2::254",
		"64:ff9b::169.254.169.254", "0.0.0.0", "::", "224.0.0.1", "ff02::1",
		"127.0.0.1", // the resolver
		"2852039166", "0xa9fea9fe", "169.254.43518", "", ".", "a b", "a\x00.test", "evil\r\n.test", "[::1]", "*",
	} {
		open := openDirect{Host: host, Port: 80}
		_, _, err := c.OpenChannel(directTCPIP, ssh.Marshal(&open))
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
			t.Errorf("%q: %v", host, err)
		}
	}
	for _, port := range []uint32{0, 65536, 1 << 31} {
		open := openDirect{Host: "10.0.0.1", Port: port}
		_, _, err := c.OpenChannel(directTCPIP, ssh.Marshal(&open))
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
			t.Errorf("port %d: %v", port, err)
		}
	}
	if got := d.list(); len(got) > 0 {
		t.Errorf("dialed %v", got)
	}
	if n := b.log.count(t, audit.Denied); n != 26 {
		t.Errorf("%d denials in the audit log:\n%s", n, b.log)
	}
	if strings.ContainsAny(b.log.String(), "\r\x00") {
		t.Error("the audit log has control characters")
	}
}

func TestNothingListedMeansNothingPermitted(t *testing.T) {
	d := newDialed(t)
	b := start(t, Config{Dial: d.dial, Resolver: nameServer(t, map[string][]string{"db.test": {"10.0.0.1"}})})
	c := b.dial(t, b.grant(t, "*:*"))
	for _, address := range []string{"10.0.0.1:5432", "db.test:5432", "127.0.0.1:80", "[2001:db8::1]:443"} {
		wantRefused(t, c, address, ssh.Prohibited, "destination "+address)
	}
	if got := d.list(); len(got) > 0 {
		t.Errorf("dialed %v", got)
	}
}

func TestNetworkFailures(t *testing.T) {
	b := start(t, Config{
		Allow: mustAllow(t, "*.test:*,127.0.0.1:*"), Resolver: nameServer(t, map[string][]string{"silent.test": {}}),
		ResolveTimeout: 50 * time.Millisecond,
	})
	closed := rig.FreeAddr(t)
	c := b.dial(t, b.grant(t))
	wantRefused(t, c, closed, ssh.ConnectionFailed, "refused")
	wantRefused(t, c, "unknown.test:80", ssh.ConnectionFailed, "cannot resolve the name: no such host")
	wantRefused(t, c, "silent.test:80", ssh.ConnectionFailed, "cannot resolve the name")
	for n := 1; n <= 3; n++ {
		if r := b.log.wait(t, audit.Connect, n); r.Result != audit.Failed || r.Reason == "" || r.Destination == "" {
			t.Errorf("%+v", r)
		}
	}
}

// Whatever is not a direct-tcpip channel does not exist.
func TestOnlyDirectTCPIP(t *testing.T) {
	d := newDialed(t)
	b := start(t, Config{Allow: mustAllow(t, everything), Dial: d.dial})
	c := b.dial(t, b.grant(t))

	types := []string{
		"session", // and with it shell, exec, subsystems, X11 and agent requests
		"x11", "auth-agent@openssh.com", "direct-streamlocal@openssh.com", "forwarded-tcpip",
		"forwarded-streamlocal@openssh.com",
		"tun@openssh.com", "", "DIRECT-TCPIP", strings.Repeat("x", 20000),
	}
	for _, channelType := range types {
		_, _, err := c.OpenChannel(channelType, nil)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
			t.Errorf("%.20q: %v", channelType, err)
		}
	}
	for _, payload := range []string{"", "\x00\x00\x00\x04host", "\xff\xff\xff\xff"} {
		if _, _, err := c.OpenChannel(directTCPIP, []byte(payload)); err == nil {
			t.Errorf("a malformed request %q was accepted", payload)
		}
	}
	denied := len(types) + 3
	if n := b.log.count(t, audit.Denied); n != denied {
		t.Errorf("%d denials of %d in the audit log:\n%s", n, denied, b.log)
	}
	for i, channelType := range types[:6] {
		if r := b.log.wait(t, audit.Denied, i+1); r.Request != channelType || r.Who != arn || r.Result != audit.Refused {
			t.Errorf("%+v", r)
		}
	}

	if l, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = l.Close()
		t.Error("a remote forward was accepted")
	}
	if l, err := c.ListenUnix("/tmp/forward.sock"); err == nil {
		_ = l.Close()
		t.Error("a remote forward of a unix socket was accepted")
	}
	for i, request := range []string{"tcpip-forward", "streamlocal-forward@openssh.com"} {
		if r := b.log.wait(t, audit.Denied, denied+1+i); r.Request != request {
			t.Errorf("%+v", r)
		}
	}
	connect(t, c, "10.0.0.1:80") // the connection is none the worse for it
}

// Requests inside a forwarded connection are refused, and do no harm.
func TestRequestsInsideAForward(t *testing.T) {
	d := newDialed(t)
	b := start(t, Config{Allow: mustAllow(t, everything), Dial: d.dial})
	c := b.dial(t, b.grant(t))
	open := openDirect{Host: "10.0.0.1", Port: 80}
	channel, requests, err := c.OpenChannel(directTCPIP, ssh.Marshal(&open))
	if err != nil {
		t.Fatal(err)
	}
	defer channel.Close()
	go ssh.DiscardRequests(requests)
	for _, name := range []string{
		"shell", "exec", "subsystem", "pty-req", "x11-req", "auth-agent-req@openssh.com",
		"env",
	} {
		if ok, err := channel.SendRequest(name, true, ssh.Marshal(struct{ S string }{"sftp"})); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if _, err := channel.Stderr().Write([]byte("stray")); err != nil {
		t.Error(err)
	}
	if _, err := channel.Write([]byte("data")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := channel.Read(got); err != nil || string(got) != "data" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWeakAlgorithmsAreRefused(t *testing.T) {
	b := start(t, Config{})
	for _, cipher := range []string{ssh.InsecureCipherAES128CBC, ssh.CipherAES128CTR} {
		config := b.clientConfig(b.grant(t))
		config.Ciphers = []string{cipher}
		if _, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), config); err == nil {
			t.Errorf("%s was accepted", cipher)
		}
	}
}
