package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
)

// names is what the network's name server answers, by an owner who would like to reach more than the list has.
var names = map[string]string{
	"db.internal.": database, "other.internal.": database, "rebound.internal.": credentials, "loop.internal.": "127.0.0.1",
}

const openSSHAllow = "db.internal:5432,rebound.internal:80,loop.internal:2222," + database + ":5433,[64:ff9b::a9fe:aa02]:80"

// openSSHTask is a task of the OpenSSH variant, alone in its namespaces.
type openSSHTask struct {
	t     *testing.T
	root  string
	cmd   *exec.Cmd
	netns string
	last  string // ID of the latest grant

	mu    sync.Mutex
	audit []string
	more  chan struct{} // closed with the next line
}

// startOpenSSH starts the variant as its own user, in a network with a database, a name server, and what stands for the task's credentials.
func startOpenSSH(t *testing.T, args ...string) *openSSHTask {
	t.Helper()
	rig.NeedRoot(t)
	rig.Need(t, "sshd")
	root := filepath.Join(t.TempDir(), "rootfs")
	if out, err := exec.CommandContext(t.Context(), "./openssh/rootfs.sh", root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	reachable(t, root)
	if err := unix.Mknod(root+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil { // any engine's container has it
		t.Fatal(err)
	}
	if err := os.Chmod(root+"/dev/null", 0o666); err != nil {
		t.Fatal(err)
	}
	const script = `ip link set lo up && ip addr add ` + database + `/32 dev lo && ip addr add ` + credentials + `/32 dev lo && read -r go && ` + sealed
	k := &openSSHTask{t: t, root: root, more: make(chan struct{})}
	k.cmd = exec.Command("sh", append([]string{"-c", script, root, "--resolver", "127.0.0.1:53"}, args...)...)
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
	read := make(chan struct{})
	go func() {
		defer close(read)
		k.read(audit)
	}()
	t.Cleanup(func() {
		_ = k.cmd.Process.Kill()
		<-read
		_ = k.cmd.Wait()
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
func (k *openSSHTask) serve() {
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
		packets, err = net.ListenPacket("udp", "127.0.0.1:53")
		return err
	}); err != nil {
		k.t.Fatal(err)
	}
	var work sync.WaitGroup
	for _, l := range echoes {
		work.Go(func() { k.echo(l) })
	}
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(answer)}
	work.Go(func() { _ = server.ActivateAndServe() })
	k.t.Cleanup(func() {
		for _, l := range echoes {
			_ = l.Close()
		}
		_ = packets.Close()
		work.Wait()
	})
}

func (k *openSSHTask) echo(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if strings.HasPrefix(l.Addr().String(), credentials) {
			k.t.Errorf("sshd connected to the task's credentials")
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}()
	}
}

func answer(w dns.ResponseWriter, q *dns.Msg) {
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

func (k *openSSHTask) read(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		k.mu.Lock()
		k.audit = append(k.audit, lines.Text())
		close(k.more)
		k.more = make(chan struct{})
		k.mu.Unlock()
	}
}

// wait returns the first event that is as wanted, once it has come.
func (k *openSSHTask) wait(wanted func(event) bool) event {
	k.t.Helper()
	late := time.After(20 * time.Second)
	for {
		k.mu.Lock()
		lines, more := slices.Clone(k.audit), k.more
		k.mu.Unlock()
		for _, line := range lines {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				k.t.Fatalf("%s: %v", line, err)
			}
			if wanted(e) {
				return e
			}
		}
		select {
		case <-more:
		case <-late:
			k.t.Fatalf("no such event")
		}
	}
}

// grant pushes a grant for the pair, by the command that ECS Exec runs, as root.
func (k *openSSHTask) grant(pair *keys.Pair, life time.Duration, permit ...string) keys.GrantReply {
	k.t.Helper()
	grant, err := keys.NewGrant(pair.PublicKey(), "arn:aws:sts::000000000000:assumed-role/r/ada", permit, life)
	if err != nil {
		k.t.Fatal(err)
	}
	word, err := grant.Encode()
	if err != nil {
		k.t.Fatal(err)
	}
	out, err := inTask(k.t.Context(), k.t, k.cmd.Process.Pid, 0, "grant", word)
	reply, found, replyErr := keys.FindGrantReply([]byte(out))
	if err != nil || !found || replyErr != nil || reply.Ports != (keys.Ports{SSH: 2222}) {
		k.t.Fatalf("%v, %v: %s", err, replyErr, out)
	}
	k.last = reply.Grant
	return reply
}

// dial connects to the SSH port as somebody.
func (k *openSSHTask) dial(user string, host ssh.HostKeyCallback, auth ssh.AuthMethod) (client *ssh.Client, err error) {
	config := &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{auth}, HostKeyCallback: host, Timeout: 20 * time.Second}
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
func (k *openSSHTask) signedIn(life time.Duration, permit ...string) *ssh.Client {
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

// The variant with a real sshd: what it does and what it refuses.
func TestOpenSSH(t *testing.T) {
	k := startOpenSSH(t, "--allow", openSSHAllow, "--drain", "20s")
	for _, part := range []struct {
		name string
		test func(*testing.T, *openSSHTask)
	}{
		{"files", openSSHFiles},
		{"forwards", openSSHForwards},
		{"destinations", openSSHDestinations},
		{"only tunnels", openSSHOnlyTunnels},
		{"keys", openSSHKeys},
		{"grant ends", openSSHGrantEnds},
		{"wants literals", openSSHWantsLiterals},
		{"drains", openSSHDrains},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, k) })
	}
}

// A real sshd carries connections to what the list names, by name and by address, and the audit log has them.
func openSSHForwards(t *testing.T, k *openSSHTask) {
	client := k.signedIn(time.Hour)
	for destination, address := range map[string]string{
		"db.internal:5432": database + ":5432", database + ":5433": database + ":5433",
	} {
		conn, err := client.Dial("tcp", destination)
		if err != nil {
			t.Fatalf("%s: %v", destination, err)
		}
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(io.LimitReader(conn, 5)); err != nil || string(got) != "hello" {
			t.Errorf("%s: %q, %v", destination, got, err)
		}
		_ = conn.Close()
		opened := k.wait(func(e event) bool { return e.Event == "connect" && e.Destination == destination })
		if opened.Result != "ok" || opened.Address != address || !strings.HasSuffix(opened.Who, "/ada") {
			t.Errorf("%+v", opened)
		}
		k.wait(func(e event) bool {
			return e.Event == "close" && e.Channel == opened.Channel && e.Destination == destination
		})
	}
	_ = client.Close()
	if e := k.wait(func(e event) bool { return e.Event == "disconnect" }); e.BytesUp == nil || *e.BytesUp == 0 || *e.BytesDown == 0 {
		t.Errorf("%+v", e)
	}
	if e := k.wait(func(e event) bool { return e.Event == "auth" }); e.User != "bastion" || e.Result != "ok" {
		t.Errorf("%+v", e)
	}
}

// It refuses every other destination, whatever a name resolves to.
func openSSHDestinations(t *testing.T, k *openSSHTask) {
	client := k.signedIn(time.Hour)
	for _, destination := range []string{
		credentials + ":80", "169.254.169.254:80", "127.0.0.1:2222", "localhost:2222", database + ":5432", database + ":22",
		"db.internal:5433", "other.internal:5432", "0xa9feaa02:80", "2852039170:80", "[64:ff9b::a9fe:aa02]:80", "[::ffff:a9fe:aa02]:80",
	} {
		conn, err := client.Dial("tcp", destination)
		if err == nil {
			_ = conn.Close()
		}
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
			t.Errorf("%s: %v, want a refusal", destination, err)
		}
		k.wait(func(e event) bool {
			return e.Event == "denied" && e.Request == "direct-tcpip" && e.Destination == destination
		})
	}
	// Names that the list has: their owner leads them elsewhere.
	for host, port := range map[string]string{"rebound.internal": "80", "loop.internal": "2222"} {
		conn, err := client.Dial("tcp", net.JoinHostPort(host, port))
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s: connected", host)
		}
		e := k.wait(func(e event) bool { return e.Event == "denied" && e.Request == "resolve" && e.Destination == host })
		if !strings.Contains(e.Reason, strings.TrimSuffix(names[host+"."], "\n")) {
			t.Errorf("%+v", e)
		}
		k.wait(func(e event) bool {
			return e.Event == "connect" && e.Result == "failed" && e.Destination == net.JoinHostPort(host, port)
		})
	}
	narrow := k.signedIn(time.Hour, database+":*")
	if _, err := narrow.Dial("tcp", "db.internal:5432"); err == nil {
		t.Error("a grant reaches what it does not permit")
	}
	if conn, err := narrow.Dial("tcp", database+":5433"); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
}

// It has no shell, and forwards nothing but connections from the client.
func openSSHOnlyTunnels(t *testing.T, k *openSSHTask) {
	client := k.signedIn(time.Hour)
	if session, err := client.NewSession(); err == nil {
		_ = session.Close()
		t.Error("a session opens")
	}
	k.wait(func(e event) bool { return e.Event == "denied" && e.Request == "session" })
	for kind, payload := range map[string]any{
		"direct-streamlocal@openssh.com": struct {
			Path, Reserved string
			Port           uint32
		}{"/run/bastiond/control.sock", "", 0},
		"tun@openssh.com": struct{ Mode, Unit uint32 }{1, 0},
		"x11": struct {
			Address string
			Port    uint32
		}{"127.0.0.1", 6000},
	} {
		channel, requests, err := client.OpenChannel(kind, ssh.Marshal(payload))
		if err == nil {
			go ssh.DiscardRequests(requests)
			_ = channel.Close()
			t.Errorf("a channel %s opens", kind)
		}
		k.wait(func(e event) bool { return e.Event == "denied" && e.Request == kind })
	}
	for kind, payload := range map[string]any{
		"tcpip-forward": struct {
			Address string
			Port    uint32
		}{"127.0.0.1", 0},
		"streamlocal-forward@openssh.com": struct{ Path string }{"/run/bastiond/s"},
	} {
		if ok, _, err := client.SendRequest(kind, true, ssh.Marshal(payload)); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
		k.wait(func(e event) bool { return e.Event == "denied" && e.Request == kind })
	}
}

// Only keys with a live grant sign in, as one of the two users.
func openSSHKeys(t *testing.T, k *openSSHTask) {
	pair := newPair(t)
	reply := k.grant(pair, time.Hour)
	key, err := reply.Key()
	if err != nil {
		t.Fatal(err)
	}
	host := keys.PinnedHostKey(key)
	for _, tt := range []struct {
		user, logged, reason string // sshd names no user who has tried no key
		auth                 ssh.AuthMethod
	}{
		{"bastion", "bastion", "no grant for this key", ssh.PublicKeys(newPair(t).Signer())},
		{"bastiond", "bastiond", "unknown user", ssh.PublicKeys(pair.Signer())},
		{"ada", "ada", "unknown user", ssh.PublicKeys(pair.Signer())},
		{"bastion", "", "handshake", ssh.Password("")},
	} {
		if _, err := k.dial(tt.user, host, tt.auth); err == nil {
			t.Errorf("%s: signed in", tt.reason)
		}
		k.wait(func(e event) bool {
			return e.Event == "auth-refused" && e.User == tt.logged && strings.Contains(e.Reason, tt.reason)
		})
	}
	// A client whose grant is on its way waits for it.
	late := newPair(t)
	signed := make(chan error, 1)
	go func() {
		_, err := k.dial(keys.UserPending, host, ssh.PublicKeys(late.Signer()))
		signed <- err
	}()
	k.grant(late, time.Hour)
	if err := <-signed; err != nil {
		t.Error(err)
	}
}

// The end of a grant ends its connections, and nobody signs in with its key again.
func openSSHGrantEnds(t *testing.T, k *openSSHTask) {
	client := k.signedIn(2 * time.Second)
	conn, err := client.Dial("tcp", "db.internal:5432")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	k.wait(func(e event) bool { return e.Event == "close" && e.Grant == k.last })
	k.wait(func(e event) bool {
		return e.Event == "disconnect" && e.Grant == k.last && e.Reason == "the grant has ended"
	})
}

// SIGTERM drains: what is open may finish, and nothing begins.
func openSSHDrains(t *testing.T, k *openSSHTask) {
	client := k.signedIn(time.Hour)
	conn, err := client.Dial("tcp", "db.internal:5432")
	if err != nil {
		t.Fatal(err)
	}
	k.wait(func(e event) bool { return e.Event == "connect" && e.Grant == k.last })
	if err := k.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	k.wait(func(e event) bool { return e.Event == "drain" })
	if _, err := io.WriteString(conn, "still"); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(io.LimitReader(conn, 5)); err != nil || string(got) != "still" {
		t.Errorf("%q, %v", got, err)
	}
	_ = conn.Close()
	k.wait(func(e event) bool { return e.Event == "stop" })
}

// A list that OpenSSH could not keep is refused at the start.
func openSSHWantsLiterals(t *testing.T, k *openSSHTask) {
	for _, entry := range []string{"10.0.0.0/8:5432", "*.internal:5432", "*:5432", "db.internal:*", "db.internal:1-2"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		cmd := exec.CommandContext(ctx, "/bastiond", "serve", "--allow", entry, "--socket", "/run/bastiond/other/s", "--listen", "127.0.0.1:0")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: taskRoot(k.cmd.Process.Pid), Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		out, err := cmd.CombinedOutput()
		cancel()
		if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "PermitOpen takes one name or address") {
			t.Errorf("%s: %v: %s", entry, err, out)
		}
	}
}

// The variant's image has the settings of the other.
func TestOpenSSHDockerfile(t *testing.T) {
	settings := func(path string) (lines []string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, last, _ := strings.Cut(string(text), "FROM scratch\n")
		return regexp.MustCompile(`(?m)^(VOLUME|USER|ENTRYPOINT|CMD|ENV|EXPOSE) .*$`).FindAllString(last, -1)
	}
	if d := cmp.Diff(settings("Dockerfile"), settings("openssh/Dockerfile")); d != "" || len(settings("Dockerfile")) < 4 {
		t.Error(d)
	}
}

// sshd's configuration says what it must even where something else says it too, and sshd understands it so.
func TestOpenSSHConfig(t *testing.T) {
	if os.Geteuid() == 0 { // sshd's separation of privileges wants it; without the service nobody has made it
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.CommandContext(t.Context(), rig.Need(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), rig.Need(t, "sshd"), "-T", "-f", "openssh/sshd_config", "-h", key,
		"-o", "AuthorizedKeysCommand /bastiond authorized-key %u %t %k")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(string(out), "\n")
	for _, want := range []string{
		"authenticationmethods publickey", "passwordauthentication no", "kbdinteractiveauthentication no", "hostbasedauthentication no",
		"permitrootlogin no", "usepam no", "authorizedkeysfile none", "maxsessions 0", "permittty no", "allowtcpforwarding local", "permitopen none",
		"permitlisten none", "allowstreamlocalforwarding no", "allowagentforwarding no", "x11forwarding no", "permittunnel no", "gatewayports no",
		"permituserenvironment no", "usedns no", "hostkeyalgorithms ssh-ed25519", "pubkeyacceptedalgorithms ssh-ed25519", "loglevel VERBOSE",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if weak := regexp.MustCompile(`(?m)^(kexalgorithms|ciphers|macs) .*(sha1|cbc|ecdh-sha2-nistp|diffie-hellman|hmac-md5|umac)`).Find(out); weak != nil {
		t.Errorf("%s", weak)
	}
}

// There is no program but bastiond, sshd and what sshd needs of shared libraries, and nothing that its user may write but the
// control socket's directory.
func openSSHFiles(t *testing.T, k *openSSHTask) {
	library := regexp.MustCompile(`/(lib|lib64|usr/lib)/.*\.so(\.[0-9]+)*$|/usr/lib/openssh/sshd-(session|auth)$`)
	for _, line := range listing(t, k.root) {
		mode, path := strings.Fields(line)[0], line[strings.LastIndex(line, " ")+1:]
		if strings.HasPrefix(path, "/run/bastiond") || strings.HasPrefix(path, "/dev/") {
			continue
		}
		if !strings.Contains(line, " 0:0 ") || !strings.HasPrefix(mode, "L") && strings.ContainsAny(mode[5:], "w") {
			t.Errorf("writable: %s", line)
		}
		if strings.HasPrefix(mode, "-") && strings.Contains(mode, "x") && path != "/bastiond" && path != "/usr/sbin/sshd" &&
			!library.MatchString(path) {
			t.Errorf("a program: %s", line)
		}
		if strings.ContainsAny(mode, "sS") {
			t.Errorf("privileged: %s", line)
		}
	}
	packages, err := os.ReadFile(k.root + "/etc/bastiond/packages")
	if err != nil || !regexp.MustCompile(`(?m)^openssh-server \S+$`).Match(packages) {
		t.Errorf("%q, %v", packages, err)
	}
}
