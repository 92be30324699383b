package image

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/keys"
)

// denial is something that no bastion lets a client do, whichever server its image has for SSH.
type denial struct {
	name string
	// try does it, and returns how the bastion refuses it.
	try  func(*testing.T, *visit) error
	want answer
	// sshd is OpenSSH's answer where its form is another one.
	sshd *difference
}

// answer is how a denial shows: to the client, and in the audit log.
type answer struct {
	reason ssh.RejectionReason // of a channel; 0: it is another kind of refusal
	events []event             // with the fields that matter
}

// difference is how OpenSSH's answer differs, and the words for it in the README of the variant.
type difference struct {
	answer
	words   string
	permits bool // it cannot deny that
}

// The words for the differences that several denials have.
const (
	notAChannel    = "The client hears \"connect failed\", not \"administratively prohibited\". The audit log has the same line."
	leadsElsewhere = "The client hears \"connect failed\". The audit log has `denied` for the name (`resolve`), without who asked, and the " +
		"failed `connect`."
)

// visit is a client of a task that has signed in.
type visit struct {
	*task
	client *ssh.Client
}

// denials is what clients must not be able to do.
var denials = []denial{
	// The credentials of the task, the metadata of an instance, and other addresses that are never permitted.
	toDestination(credentials + ":80"), toDestination("169.254.169.254:80"), toDestination("[fd00:ec2::254]:80"),
	toDestination("[fe80::1]:80"),
	toDestination("[::ffff:a9fe:aa02]:80"), toDestination("[64:ff9b::a9fe:aa02]:80"), toDestination("[64:ff9b::a9fe:a9fe]:80"),
	toDestination("0.0.0.0:80"), toDestination("[::]:80"), toDestination("224.0.0.1:80"), toDestination("[ff02::1]:80"),
	// The same in other spellings.
	toDestination("0xa9feaa02:80"), toDestination("2852039170:80"), toDestination("169.254.43522:80"),
	// The task itself: its SSH port, and the resolver.
	toDestination("127.0.0.1:2222"), toDestination("localhost:2222"), toDestination("[::1]:2222"), toDestination("127.0.0.1:53"),
	// What the list has with another port or not at all, by name and by address.
	toDestination(database + ":5432"), toDestination(database + ":22"), toDestination("db.internal:5434"), toDestination("db.internal:0"),
	toDestination("other.internal:5432"), toDestination("unknown.internal:5432"), toDestination("*:5432"), toDestination("10.9.8.0/24:5432"),
	// Names of the list, which their owner leads elsewhere.
	toLedElsewhere("rebound.internal", "80"), toLedElsewhere("loop.internal", "2222"),
	// What the list has, and the client's own grant does not.
	{"a destination beyond the grant", func(_ *testing.T, v *visit) error {
		return dialed(v.signedIn(time.Hour, database+":5433"), "db.internal:5432")
	}, deniedTo("db.internal:5432"), nil},
	{"a destination of another's grant", func(t *testing.T, v *visit) error {
		v.signedIn(time.Hour) // who has all of the list
		return dialed(v.signedIn(time.Hour, "db.internal:*"), database+":5433")
	}, deniedTo(database + ":5433"), nil},

	{"connections beyond the bounds", tooMany, answer{ssh.ResourceShortage, []event{{Event: "denied", Request: "direct-tcpip"}}}, &difference{
		words:   "Not denied: bastiond's bounds hold for SSH connections and grants there, not for the forwarded connections in them.",
		permits: true,
	}},

	// Other protocols of SSH: whatever is not a connection from the client to a destination.
	toChannel("session", nil), // with it shells, commands, subsystems, terminals, X11 and agents
	toChannel("x11", ssh.Marshal(struct {
		Address string
		Port    uint32
	}{"127.0.0.1", 6000})),
	toChannel("auth-agent@openssh.com", nil),
	toChannel("direct-streamlocal@openssh.com", ssh.Marshal(struct {
		Path, Reserved string
		Port           uint32
	}{"/run/bastiond/control.sock", "", 0})),
	toChannel("tun@openssh.com", ssh.Marshal(struct{ Mode, Unit uint32 }{1, 0})),
	toChannel("forwarded-tcpip", nil), toChannel("nonsense", nil),
	toRequest("tcpip-forward", ssh.Marshal(struct {
		Address string
		Port    uint32
	}{"127.0.0.1", 0})),
	toRequest("streamlocal-forward@openssh.com", ssh.Marshal(struct{ Path string }{"/run/bastiond/s"})),
	insideForward("shell"), insideForward("exec"), insideForward("subsystem"), insideForward("pty-req"), insideForward("x11-req"),
	insideForward("auth-agent-req@openssh.com"), insideForward("env"),

	// Keys without a live grant, and other ways to sign in.
	toSignIn("a stranger's key", noGrant, func(t *testing.T, v *visit) error { return signIn(v, ssh.PublicKeys(newPair(t).Signer())) }),
	toSignIn("a key whose grant has ended", "the grant for this key has ended", endedKey),
	toSignIn("no key", "", func(_ *testing.T, v *visit) error { return signIn(v) }),
	toSignIn("a password", "", func(_ *testing.T, v *visit) error { return signIn(v, ssh.Password("secret-password")) }),
	toSignIn("questions", "", func(_ *testing.T, v *visit) error {
		return signIn(v, ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil }))
	}),
	withCipher(ssh.InsecureCipherAES128CBC), withCipher(ssh.CipherAES128CTR),

	// Grants that cannot be.
	{"a grant for the credentials", func(t *testing.T, v *visit) error {
		return v.refusedGrant(t, 0, credentials+":80")
	}, answer{events: []event{{Event: "grant-refused"}}}, nil},
	{"a grant by another user", func(t *testing.T, v *visit) error { return v.refusedGrant(t, 65533) }, answer{}, nil},
}

const noGrant = "no grant for this key"

// toSignIn is a sign-in that fails, with the reason in the audit log.
func toSignIn(name, reason string, try func(*testing.T, *visit) error) denial {
	return denial{name, try, answer{events: []event{{Event: "auth-refused", Reason: reason}}}, nil}
}

func deniedTo(destination string) answer {
	return answer{ssh.Prohibited, []event{{Event: "denied", Request: "direct-tcpip", Destination: destination}}}
}

// toDestination is a connection to where neither server lets it go.
func toDestination(destination string) denial {
	return denial{destination, dials(destination), deniedTo(destination), nil}
}

// toLedElsewhere is a connection to a name of the list, which leads to an address that is never permitted.
func toLedElsewhere(host, port string) denial {
	d := toDestination(net.JoinHostPort(host, port))
	d.sshd = &difference{
		answer: answer{ssh.ConnectionFailed, []event{
			{Event: "denied", Request: "resolve", Destination: host, Reason: names[host+"."]},
			{Event: "connect", Result: "failed", Destination: d.name},
		}},
		words: leadsElsewhere,
	}
	return d
}

func dials(destination string) func(*testing.T, *visit) error {
	return func(_ *testing.T, v *visit) error { return dialed(v.client, destination) }
}

func dialed(client *ssh.Client, destination string) error {
	conn, err := client.Dial("tcp", destination)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// maxForwards is the bound of forwarded connections in one SSH connection of the tests' bastions.
const maxForwards = 4

// tooMany opens one forwarded connection too many.
func tooMany(t *testing.T, v *visit) error {
	client := v.signedIn(time.Hour)
	defer func() { _ = client.Close() }()
	for range maxForwards {
		if _, err := client.Dial("tcp", "db.internal:5432"); err != nil {
			t.Fatal(err)
		}
	}
	return dialed(client, "db.internal:5432")
}

// toChannel is a channel that is not to a destination.
func toChannel(kind string, payload []byte) denial {
	events := []event{{Event: "denied", Request: kind}}
	return denial{"channel " + kind, func(_ *testing.T, v *visit) error {
		channel, requests, err := v.client.OpenChannel(kind, payload)
		if err == nil {
			go ssh.DiscardRequests(requests)
			_ = channel.Close()
		}
		return err
	}, answer{ssh.Prohibited, events}, &difference{answer: answer{ssh.ConnectionFailed, events}, words: notAChannel}}
}

// toRequest is a request of the connection.
func toRequest(kind string, payload []byte) denial {
	return denial{"request " + kind, func(_ *testing.T, v *visit) error {
		return denied(v.client.SendRequest(kind, true, payload))
	}, answer{events: []event{{Event: "denied", Request: kind}}}, nil}
}

// insideForward is a request of a session's in a forwarded connection, which goes on.
func insideForward(kind string) denial {
	return denial{kind + " inside a forward", func(t *testing.T, v *visit) error {
		channel, requests, err := v.client.OpenChannel("direct-tcpip", ssh.Marshal(struct {
			Host       string
			Port       uint32
			OriginHost string
			OriginPort uint32
		}{"db.internal", 5432, "127.0.0.1", 1}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = channel.Close() }()
		go ssh.DiscardRequests(requests)
		ok, err := channel.SendRequest(kind, true, ssh.Marshal(struct{ S string }{"sftp"}))
		if _, err := io.WriteString(channel, "data"); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(io.LimitReader(channel, 4)); err != nil || string(got) != "data" {
			t.Errorf("the connection after it: %q, %v", got, err)
		}
		return denied(ok, nil, err)
	}, answer{}, nil}
}

// denied makes an error of the refusal of a request.
func denied(ok bool, _ []byte, err error) error {
	if err == nil && !ok {
		return errors.New("refused")
	}
	return err
}

// signIn signs in with the key of no grant, or another way.
func signIn(v *visit, auth ...ssh.AuthMethod) error {
	client, err := v.dial("bastion", ssh.InsecureIgnoreHostKey(), auth...)
	if err == nil {
		_ = client.Close()
	}
	return err
}

// endedKey signs in with a key that could, until its grant ended.
func endedKey(t *testing.T, v *visit) error {
	for life := 3 * time.Second; ; life *= 4 { // a busy machine may take longer to sign in
		pair := newPair(t)
		v.grant(pair, life)
		client, err := v.dial("bastion", ssh.InsecureIgnoreHostKey(), ssh.PublicKeys(pair.Signer()))
		if err == nil {
			_ = client.Wait() // until the bastion ends it with the grant
			return signIn(v, ssh.PublicKeys(pair.Signer()))
		}
		if life > 30*time.Second {
			t.Fatal(err)
		}
	}
}

// withCipher signs in with a live grant and a cipher that is too weak.
func withCipher(cipher string) denial {
	return toSignIn(cipher, "", func(t *testing.T, v *visit) error {
		pair := newPair(t)
		v.grant(pair, time.Hour)
		client, err := v.dialWith(&ssh.ClientConfig{
			Config: ssh.Config{Ciphers: []string{cipher}}, User: "bastion", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			Auth: []ssh.AuthMethod{ssh.PublicKeys(pair.Signer())},
		})
		if err == nil {
			_ = client.Close()
		}
		return err
	})
}

// refusedGrant pushes a grant as a user.
func (v *visit) refusedGrant(t *testing.T, user uint32, permit ...string) error {
	t.Helper()
	out, err := inTask(t.Context(), t, v.cmd.Process.Pid, user, "grant", v.word(newPair(t), time.Hour, permit...))
	reply, found, replyErr := keys.FindGrantReply([]byte(out))
	if !found || replyErr != nil || (err == nil) != (reply.Error == "") {
		t.Fatalf("%v, %v: %s", err, replyErr, out)
	}
	if reply.Error == "" {
		return nil
	}
	return errors.New(reply.Error)
}

// Each image denies the same, alone in its namespaces, read-only and without a capability.
func TestDenials(t *testing.T) {
	root := build(t)
	for _, image := range []struct {
		name string
		root func(*testing.T) string
		sshd bool
	}{
		{"rootfs.sh", func(*testing.T) string { return root }, false},
		{"account/image", func(t *testing.T) string { return extract(t, ociImage(t, root)) }, false},
		{"openssh", openSSHRoot, true},
	} {
		t.Run(image.name, func(t *testing.T) {
			root := image.root(t)
			deniesAll(t, root, image.sshd)
			t.Run("nothing listed", func(t *testing.T) { deniesUnlisted(t, root, image.sshd) })
		})
	}
}

func deniesAll(t *testing.T, root string, sshd bool) {
	k := startTask(t, root, "--resolver", resolver, "--allow", allowed, "--max-channels-per-conn", fmt.Sprint(maxForwards))
	client := k.signedIn(time.Hour)
	for _, d := range denials {
		t.Run(d.name, func(t *testing.T) {
			switch {
			case !sshd || d.sshd == nil:
				k.isDenied(t, d, client, d.want)
			case !d.sshd.permits:
				k.isDenied(t, d, client, d.sshd.answer)
			default:
				if err := d.try(t, &visit{k, client}); err != nil {
					t.Errorf("OpenSSH denies it now: %v", err)
				}
			}
		})
	}
	if err := dialed(client, "db.internal:5432"); err != nil { // none of them has harmed it
		t.Error(err)
	}
}

// deniesUnlisted starts a bastion without a list: nothing listed means nothing permitted.
func deniesUnlisted(t *testing.T, root string, sshd bool) {
	k := startTask(t, root, "--resolver", resolver)
	pair := newPair(t)
	k.grant(pair, time.Hour, "*:*")
	client, err := k.dial("bastion", ssh.InsecureIgnoreHostKey(), ssh.PublicKeys(pair.Signer()))
	if sshd {
		if err == nil {
			t.Error("a key without anything to reach signs in")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []denial{toDestination("db.internal:5432"), toDestination(database + ":5432"), toDestination(credentials + ":80")} {
		k.isDenied(t, d, client, d.want)
	}
}

func (k *task) isDenied(t *testing.T, d denial, client *ssh.Client, want answer) {
	t.Helper()
	before := len(k.lines())
	err := d.try(t, &visit{k, client})
	refused, _ := errors.AsType[*ssh.OpenChannelError](err)
	switch {
	case err == nil:
		t.Fatal("it is permitted")
	case want.reason == 0:
	case refused == nil:
		t.Errorf("%v, want a refused channel", err)
	case refused.Reason != want.reason:
		t.Errorf("%v, want %v", refused, want.reason)
	}
	for _, e := range want.events {
		k.waitFrom(t, before, e.like)
	}
}

// like reports whether an event has the fields that e has.
func (e event) like(other event) bool {
	return e.Event == other.Event && (e.Result == "" || e.Result == other.Result) && (e.Request == "" || e.Request == other.Request) &&
		(e.Destination == "" || e.Destination == other.Destination) && strings.Contains(other.Reason, e.Reason)
}

// The README of the variant says how OpenSSH's denials differ, and what it does not deny.
func TestDenialsInREADME(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("openssh", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range denials {
		if d.sshd != nil && !strings.Contains(string(text), " | "+d.sshd.words+" |\n") {
			t.Errorf("%s: no row that ends in %q", d.name, d.sshd.words)
		}
	}
}
