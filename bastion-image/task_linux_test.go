package image

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/lab"
)

// Addresses in the task's network: that of a database, and that of the task's credentials.
const (
	database    = "10.9.8.7"
	credentials = "169.254.170.2"
	resolver    = "127.0.0.1:53"
)

// names is what the network's name server answers, by an owner who would like to reach more than the list has.
var names = map[string]string{
	"db.internal.": database, "other.internal.": database, "rebound.internal.": credentials, "loop.internal.": "127.0.0.1",
}

// allowed is the list of the tests' bastions. Some of its names lead elsewhere, and one of its addresses is that of the credentials.
const allowed = "db.internal:5432,rebound.internal:80,loop.internal:2222," + database + ":5433,[64:ff9b::a9fe:aa02]:80"

// task is a bastion of an image, alone in its namespaces, as the task definition makes it: read-only, without capabilities.
type task struct {
	t     *testing.T
	root  string
	cmd   *exec.Cmd
	netns string
	last  string // ID of the latest grant
	done  chan struct{}
	err   error // of its end

	mu    sync.Mutex
	audit []string
	more  chan struct{} // closed with the next line
}

// startTask starts an image's bastion as its own user, in a network with a database, a name server, and what stands for the task's
// credentials.
func startTask(t *testing.T, root string, args ...string) *task {
	t.Helper()
	rig.NeedRoot(t)
	err := unix.Mknod(root+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) // any engine's container has it
	if errors.Is(err, fs.ErrExist) {                                               // of another task of this root
		err = nil
	}
	if err = errors.Join(err, os.Chmod(root+"/dev/null", 0o666)); err != nil {
		t.Fatal(err)
	}
	const script = `ip link set lo up && ip addr add ` + database + `/32 dev lo && ip addr add ` + credentials + `/32 dev lo &&
		read -r go && ` + sealed
	k := &task{t: t, root: root, done: make(chan struct{}), more: make(chan struct{})}
	k.cmd = exec.Command("sh", append([]string{"-c", script, root}, args...)...)
	k.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	var stderr bytes.Buffer
	k.cmd.Stderr = &stderr
	audit, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ready, err := k.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k.netns = fmt.Sprintf("/proc/%d/ns/net", k.cmd.Process.Pid)
	go func() {
		defer close(k.done)
		k.read(audit)
		k.err = k.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = k.cmd.Process.Kill() // init of its namespace: it takes all with it
		<-k.done
		if t.Failed() {
			t.Logf("stderr:\n%s\naudit:\n%s", &stderr, strings.Join(k.audit, "\n"))
		}
	})
	k.serve()
	if _, err := io.WriteString(ready, "go\n"); err != nil {
		t.Fatal(err)
	}
	k.wait(func(e event) bool { return e.Event == "start" })
	wantSealed(t, k.cmd.Process.Pid)
	return k
}

// serve starts the servers of the network: an echo at the database's ports, and the name server. They end with the test.
func (k *task) serve() {
	k.t.Helper()
	var packets net.PacketConn
	var echoes []net.Listener
	if err := lab.InNetns(k.netns, func() (err error) {
		for _, address := range []string{database + ":5432", database + ":5433", credentials + ":80"} {
			var l net.Listener
			for range 1000 { // until the script has given the network its addresses
				if l, err = net.Listen("tcp", address); err == nil {
					break
				}
				<-time.After(20 * time.Millisecond)
			}
			if err != nil {
				return err
			}
			echoes = append(echoes, l)
		}
		packets, err = net.ListenPacket("udp", resolver)
		return err
	}); err != nil {
		k.t.Fatal(err)
	}
	var work sync.WaitGroup
	for _, l := range echoes {
		work.Go(func() { k.echo(l) })
	}
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(answerName)}
	work.Go(func() { _ = server.ActivateAndServe() })
	k.t.Cleanup(func() {
		for _, l := range echoes {
			_ = l.Close()
		}
		_ = packets.Close()
		work.Wait()
	})
}

func (k *task) echo(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if strings.HasPrefix(l.Addr().String(), credentials) {
			k.t.Errorf("the bastion connected to the task's credentials")
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}()
	}
}

func answerName(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	address, known := names[strings.ToLower(q.Question[0].Name)]
	switch {
	case !known:
		m.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(address),
		})
	}
	_ = w.WriteMsg(m)
}

// event is what the tests look at of a line of the audit log.
type event struct {
	Event, Result, Reason, Who, Grant, User, Request, Destination, Address string
	Conn, Channel                                                          uint64
	BytesUp                                                                *int64 `json:"bytes_up"`
	BytesDown                                                              *int64 `json:"bytes_down"`
}

func (k *task) read(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		k.mu.Lock()
		k.audit = append(k.audit, lines.Text())
		close(k.more)
		k.more = make(chan struct{})
		k.mu.Unlock()
	}
}

// lines returns the audit log so far.
func (k *task) lines() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.audit)
}

// wait returns the first event that is as wanted, once it has come.
func (k *task) wait(wanted func(event) bool) event {
	k.t.Helper()
	return k.waitFrom(k.t, 0, wanted)
}

// waitFrom is wait for the events after the first ones.
func (k *task) waitFrom(t *testing.T, first int, wanted func(event) bool) event {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		k.mu.Lock()
		lines, more := slices.Clone(k.audit), k.more
		k.mu.Unlock()
		for _, line := range lines[first:] {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if wanted(e) {
				return e
			}
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("no such event in\n%s", strings.Join(lines[first:], "\n"))
		}
	}
}

// word is a grant for the pair.
func (k *task) word(pair *keys.Pair, life time.Duration, permit ...string) string {
	k.t.Helper()
	grant, err := keys.NewGrant(pair.PublicKey(), "arn:aws:sts::000000000000:assumed-role/r/ada", permit, life)
	if err != nil {
		k.t.Fatal(err)
	}
	word, err := grant.Encode()
	if err != nil {
		k.t.Fatal(err)
	}
	return word
}

// grant pushes a grant for the pair, by the command that ECS Exec runs, as root.
func (k *task) grant(pair *keys.Pair, life time.Duration, permit ...string) keys.GrantReply {
	k.t.Helper()
	out, err := inTask(k.t.Context(), k.t, k.cmd.Process.Pid, 0, "grant", k.word(pair, life, permit...))
	reply, found, replyErr := keys.FindGrantReply([]byte(out))
	if err != nil || !found || replyErr != nil || reply.Error != "" || reply.Ports.SSH != 2222 {
		k.t.Fatalf("%v, %v: %s", err, replyErr, out)
	}
	k.last = reply.Grant
	return reply
}

// dial connects to the SSH port as somebody.
func (k *task) dial(user string, host ssh.HostKeyCallback, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return k.dialWith(&ssh.ClientConfig{User: user, Auth: auth, HostKeyCallback: host})
}

func (k *task) dialWith(config *ssh.ClientConfig) (client *ssh.Client, err error) {
	config.Timeout = 20 * time.Second
	err = errors.Join(lab.InNetns(k.netns, func() error {
		client, err = ssh.Dial("tcp", "127.0.0.1:2222", config)
		return nil
	}), err)
	if client != nil {
		k.t.Cleanup(func() { _ = client.Close() })
	}
	return client, err
}

func newPair(t *testing.T) *keys.Pair {
	t.Helper()
	pair, err := keys.NewPair("")
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// signedIn grants a key and connects with it.
func (k *task) signedIn(life time.Duration, permit ...string) *ssh.Client {
	k.t.Helper()
	pair := newPair(k.t)
	reply := k.grant(pair, life, permit...)
	host, err := reply.Key()
	if err != nil {
		k.t.Fatal(err)
	}
	client, err := k.dial("bastion", keys.PinnedHostKey(host), ssh.PublicKeys(pair.Signer()))
	if err != nil {
		k.t.Fatal(err)
	}
	return client
}
