package access

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/sessions"
)

// A name that looks like an instance's id but is none stays a name: ssh to it goes by the bastion.
func TestIsInstance(t *testing.T) {
	for host, want := range map[string]bool{
		"i-01234567": true, "i-0123456789abcdef0": true, "mi-0123456789abcdef0": true,
		"": false, "i-": false, "i-0123456": false, "i-012345678": false, "i-0123456789abcdef01": false, "mi-01234567": false,
		"I-01234567": false, "i-0123456G": false, "i-0123456789ABCDEF0": false, "xi-01234567": false, "i-01234567.corp": false,
		"i-01234567\n": false, "ecs:a_b_c": false,
	} {
		if got := IsInstance(host); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
}

// sentKeys admits the user with the keys that EC2 Instance Connect has sent to the directory.
func sentKeys(dir string) func(string, ssh.PublicKey) bool {
	return func(user string, key ssh.PublicKey) bool {
		data, err := os.ReadFile(filepath.Join(dir, filepath.Base(user)))
		return err == nil && strings.Contains(string(data), authorizedLine(key))
	}
}

// logIn logs in at the stream's server and out again.
func logIn(s *SSHStream, user string, signer ssh.Signer, hostKey ssh.PublicKey) error {
	client, chans, requests, err := ssh.NewClientConn(s.Conn, nodeID, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(hostKey),
	})
	if err != nil {
		return err
	}
	return ssh.NewClient(client, chans, requests).Close()
}

// With a user's name the instance gets a key that is made for this stream alone, and the stream's Signer has it. Without one nothing is
// sent: the user has a key.
func TestOpenInstance(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	own, _ := newKey(t)
	dir := t.TempDir()
	sent := sentKeys(dir)
	node := startNode(t, func(user string, key ssh.PublicKey) bool { return sent(user, key) || sameKey(key, own.PublicKey()) }, host)
	l := startLab(t, func(c *lab.Config) {
		c.Instances = map[string]lab.Instance{nodeID: {Ports: map[int]string{22: node.addr}, ActiveKeys: dir}}
	})
	var steps steps
	a := l.access(Options{Progress: steps.add})
	var keys []ssh.PublicKey
	for range 2 {
		s, err := a.OpenInstance(t.Context(), nodeID, 22, "ec2-user", nil)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := s.Signer(t.Context())
		if err != nil || signer == nil {
			t.Fatalf("%v, %v", signer, err)
		}
		if len(s.HostKeys) != 0 {
			t.Errorf("host keys that nobody has told: %v", s.HostKeys)
		}
		keys = append(keys, signer.PublicKey())
		if err := logIn(s, "ec2-user", signer, host.PublicKey()); err != nil {
			t.Error(err)
		}
		if shown := a.Links(); len(shown) != 1 || shown[0].Bastion != nodeID || shown[0].Document != sessions.DocumentSSH {
			t.Errorf("%+v", shown)
		}
		_ = s.Close() // its server has ended it
		if left := a.Links(); len(left) != 0 {
			t.Errorf("after its end: %+v", left)
		}
	}
	if sameKey(keys[0], keys[1]) {
		t.Error("a key serves two streams")
	}
	want := []string{"opening a session to " + nodeID, "sending a key to " + nodeID}
	if want = append(want, want...); !slices.Equal(steps.texts(), want) {
		t.Errorf("the steps: %q, want %q", steps.texts(), want)
	}
	l.wantCalls(map[string]int{"ec2-instance-connect:SendSSHPublicKey": 2, "ssm:StartSession": 2})

	s, err := a.OpenInstance(t.Context(), nodeID, 22, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if signer, err := s.Signer(t.Context()); signer != nil || err != nil {
		t.Errorf("a signer %v, %v", signer, err)
	}
	if err := logIn(s, "root", own, host.PublicKey()); err != nil {
		t.Error(err)
	}
	l.wantCalls(map[string]int{"ec2-instance-connect:SendSSHPublicKey": 2, "ssm:StartSession": 3})
}

// A key is sent once there is a session for it: the instance forgets it after a minute. If it cannot be sent, the session is
// closed, and the error names the instance and what to do.
func TestOpenInstanceFails(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	node := startNode(t, func(string, ssh.PublicKey) bool { return false }, host)
	dir := t.TempDir()
	const (
		deaf     = "i-0aaaaaaaaaaaaaaaa" // takes no keys
		premises = "mi-0123456789abcdef0"
		unknown  = "i-0bbbbbbbbbbbbbbbb"
	)
	ports := map[int]string{22: node.addr}
	l := startLab(t, func(c *lab.Config) {
		c.Instances = map[string]lab.Instance{nodeID: {Ports: ports, ActiveKeys: dir}, deaf: {Ports: ports}, premises: {Ports: ports}}
	})
	const send = "ec2-instance-connect:SendSSHPublicKey"
	for name, tt := range map[string]struct {
		id, user string
		settings []string
		faults   lab.APIFaults
		sent     bool // the key, or an attempt
		kind     fail.Kind
		says     string
		next     string
	}{
		"an instance that takes none": {
			id: deaf, user: "ec2-user", sent: true, kind: fail.Start, says: "EC2InstanceUnavailableException", next: "leave out --instance-connect",
		},
		"a node on premises": {
			id: premises, user: "ec2-user", sent: true, kind: fail.NoTarget, says: "EC2InstanceNotFoundException",
			next: "Instance Connect works with EC2 instances only",
		},
		"a right": {
			id: nodeID, user: "ec2-user", faults: lab.APIFaults{Deny: []string{send}}, sent: true, kind: fail.Denied,
			says: "AccessDenied", next: send,
		},
		"a user's name": {
			id: nodeID, user: "../me", sent: true, kind: fail.Start, says: "InvalidArgsException", next: "leave out --instance-connect",
		},
		"no session": {
			id: unknown, user: "ec2-user", settings: []string{"connect_timeout=300ms"}, kind: fail.Timeout, says: "open a session to " + unknown, next: "check that the node runs",
		},
		"no session, of a user with a key": {
			id: unknown, settings: []string{"connect_timeout=300ms"}, kind: fail.Timeout, says: "open a session to " + unknown, next: "check that the node runs",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l.faults(tt.faults)
			before := l.calls(send, "ssm:TerminateSession")
			a := l.access(Options{}, tt.settings...)
			_, err := a.OpenInstance(t.Context(), tt.id, 22, tt.user, nil)
			if err == nil || fail.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), tt.id) ||
				!strings.Contains(fail.NextOf(err), tt.next) {
				t.Errorf("%v error %v, hint %q; want %v with %q and the hint %q", fail.KindOf(err), err, fail.NextOf(err), tt.kind, tt.says, tt.next)
			}
			after := l.calls(send, "ssm:TerminateSession")
			if sent := after[0] > before[0]; sent != tt.sent {
				t.Errorf("sent: %v, want %v", sent, tt.sent)
			}
			if closed := after[1] > before[1]; closed != tt.sent {
				t.Errorf("a session was closed: %v, want %v", closed, tt.sent)
			}
			if left := a.Links(); len(left) != 0 {
				t.Errorf("links: %+v", left)
			}
		})
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("keys are left: %v, %v", left, err)
	}
}

// Whoever waits for an instance is told why when the wait begins, and again only when AWS gives another reason.
func TestOpenInstanceTellsWhy(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	l := startLab(t, withNode(startNode(t, func(string, ssh.PublicKey) bool { return false }, host)))
	l.faults(lab.APIFaults{NotConnected: 2, Errors: map[string]lab.APIError{
		"ssm:StartSession": {Code: "InternalServerError", Message: "try later", Status: 400, Count: 1},
	}})
	var told []error
	s, err := l.access(Options{}).OpenInstance(t.Context(), nodeID, 22, "", func(why error) { told = append(told, why) })
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	var classes []awsanswer.Class
	for _, why := range told {
		classes = append(classes, awsanswer.ClassOf(why))
	}
	if len(classes) != 2 || classes[0] == classes[1] || classes[1] != awsanswer.NotConnected {
		t.Errorf("told %v: %v", classes, told)
	}
	// tell ignores one who does not listen, and says nothing twice.
	p := patience{}
	p.tell(errors.New("x"))
	n := 0
	p.waits = func(error) { n++ }
	for _, why := range told {
		p.tell(why)
		p.tell(fmt.Errorf("again: %w", why))
	}
	if n != 2 {
		t.Errorf("told %d times", n)
	}
}
