//go:build linux

package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/proxy"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// The user's credentials, passwords and tokens, and the programs' keys, are in no log, file, argument, foreign environment or crash
// dump, however much is logged.
func TestSecrets(t *testing.T) {
	rig.NeedRoot(t)
	w := newAgentWorld(t, func(c *lab.Config) { c.Postgres, c.NoWeb = vpc.Embedded, false })
	w.env = append(w.env, "BASTION_QUIET=false", "BASTION_VERBOSE=true")
	secrets := make(rig.Secrets)
	w.secretCredentials(secrets)
	password := w.proxyPassword(secrets)
	for _, text := range []string{"OPENSSH PRIVATE KEY", "BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY"} {
		secrets[text] = [][]byte{[]byte(text)} // in no other form
	}

	// All that handles secrets is at work.
	var given []int // processes that the user has given them to
	var outputs []*rig.Proc
	started := func(p *rig.Proc) *rig.Proc {
		given, outputs = append(given, p.Cmd.Process.Pid), append(outputs, p)
		return p
	}
	forward := w.detach("-q", w.far.Addr(), ":")[0]
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := echo(ctx, forward.Listen); err != nil {
		t.Fatal(err)
	}
	w.proxyClients(ctx, started(w.bastion("socks", ":")), password, secrets)
	w.iamTokens(ctx, secrets, func(p *rig.Proc, child int) {
		started(p)
		given = append(given, child)
	})
	stdin, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	cmd := exec.Command(filepath.Join(bin, "bastion"), "proxy", "127.0.0.1", strconv.Itoa(w.far.Port()))
	cmd.Stdin = stdin
	proxied := started(w.startCmd(cmd))
	_ = stdin.Close()
	if _, err := hold.WriteString("eproxied\n"); err != nil {
		t.Fatal(err)
	}
	if err := proxied.WaitOutput(ctx, "proxied"); err != nil {
		t.Fatal(err)
	}
	alone := started(w.bastion("forward", "--no-agent", w.far.Addr(), ":"))
	if _, err := alone.Line(ctx, 0); err != nil {
		t.Fatal(err)
	}
	w.rejected(started, secrets)

	agent := w.agentState().PID
	task := w.running()[0]
	w.keysOf(secrets, agent, task)
	w.keysOf(secrets, alone.Cmd.Process.Pid, task)
	t.Logf("%d secrets are looked for", len(secrets))

	w.noSecretProcess(secrets, given, agent, task.PID)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", agent))
	if err != nil || !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("the agent may dump its core: %v\n%s", err, limits)
	}

	// The agent crashes.
	if err := syscall.Kill(agent, syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	w.eventually("the agent has crashed", func() bool { return gone(agent) })
	crash, err := os.ReadFile(filepath.Join(w.stateDir(), "agent.err"))
	if err != nil || !strings.Contains(string(crash), "goroutine ") {
		t.Errorf("it has not said why: %v\n%s", err, crash)
	}
	if err := syscall.Kill(alone.Cmd.Process.Pid, syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	<-alone.Ended()
	if !strings.Contains(alone.Output(), "goroutine ") {
		t.Errorf("no traces of a process that has crashed:\n%s", alone.Output())
	}

	found, files, err := secrets.InFiles(w.home)
	if err != nil || len(found) > 0 || files < 4 {
		t.Errorf("secrets in %d files: %v, %v", files, found, err)
	}
	stdout, stderr, err := w.TaskOutput(task.ID)
	if names := secrets.In(append(stdout, stderr...)); err != nil || len(names) > 0 || len(stdout) == 0 {
		t.Errorf("secrets in bastiond's log: %q, %v", names, err)
	}
	for _, p := range outputs {
		if names := secrets.In([]byte(p.Output())); len(names) > 0 {
			t.Errorf("%q: secrets in its output: %q\n%s", p.Cmd.Args, names, p.Output())
		}
	}
}

// secretCredentials makes the user one whose credentials are a role's, in variables.
func (w *world) secretCredentials(secrets rig.Secrets) {
	w.t.Helper()
	if _, err := w.AddIdentity("agent-007", lab.IdentityConfig{Expires: time.Now().Add(time.Hour)}); err != nil {
		w.t.Fatal(err)
	}
	c := w.credentials("agent-007")
	secrets.Add("the secret access key", []byte(c.secret))
	secrets.Add("the session token", []byte(c.token))
	w.env = slices.DeleteFunc(w.env, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"}, name)
	})
	none := filepath.Join(w.home, "none")
	w.env = append(append(w.env, c.env()...), "AWS_CONFIG_FILE="+none, "AWS_SHARED_CREDENTIALS_FILE="+none)
}

// proxyPassword sets a password for proxies, in a file outside of the user's home, which is searched.
func (w *world) proxyPassword(secrets rig.Secrets) string {
	w.t.Helper()
	const password = "correct horse: battery"
	path := filepath.Join(w.t.TempDir(), "auth")
	if err := os.WriteFile(path, []byte("alice:"+password+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.env = append(w.env, "BASTION_PROXY_AUTH_FILE="+path)
	secrets.Add("the proxy's password", []byte(password))
	return password
}

// proxyClients use a proxy, with the right password and a wrong one.
func (w *world) proxyClients(ctx context.Context, p *rig.Proc, password string, secrets rig.Secrets) {
	w.t.Helper()
	line, err := p.Line(ctx, 0)
	addr, ok := strings.CutPrefix(line, "socks5h://")
	if err != nil || !ok {
		w.t.Fatalf("%q, %v", line, err)
	}
	wrong := "wrong horse: battery"
	secrets.Add("a wrong password", []byte(wrong))
	for _, try := range []string{password, wrong} {
		d, err := proxy.SOCKS5("tcp", addr, &proxy.Auth{User: "alice", Password: try}, &net.Dialer{})
		if err != nil {
			w.t.Fatal(err)
		}
		conn, err := d.Dial("tcp", w.far.Addr())
		if (err == nil) != (try == password) {
			w.t.Errorf("SOCKS with %q: %v", try, err)
		}
		if err == nil {
			if err := rig.NewEcho(conn).Round(); err != nil {
				w.t.Error(err)
			}
			_ = conn.Close()
		}
		client := http.Client{Transport: &http.Transport{
			Proxy:             http.ProxyURL(&url.URL{Scheme: "http", User: url.UserPassword("alice", try), Host: addr}),
			DisableKeepAlives: true,
		}}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.WebURL(), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			w.t.Error(err)
			continue
		}
		_ = resp.Body.Close()
		if (resp.StatusCode == http.StatusOK) != (try == password) {
			w.t.Errorf("HTTP with %q: %s", try, resp.Status)
		}
	}
}

// iamTokens has tokens made for a database, one of them for a program that goes on running.
func (w *world) iamTokens(ctx context.Context, secrets rig.Secrets, running func(p *rig.Proc, child int)) {
	w.t.Helper()
	code, token := w.run(time.Minute, filepath.Join(bin, "bastion"), "token", "-q", "rds:orders", "--user", lab.DBUser)
	if code != 0 {
		w.t.Fatalf("bastion token: exit code %d\n%s", code, token)
	}
	w.addToken(secrets, "a printed token", token)

	// The program tells its password by a file, not by its output, which is searched.
	told := filepath.Join(w.t.TempDir(), "told")
	p := w.bastion("exec", "rds:orders", ":", "--iam-user", lab.DBUser, "--", "sh", "-c",
		`printf %s "$PGPASSWORD" > "$0" && echo child $$ && exec sleep 600`, told)
	line, err := p.Line(ctx, 0)
	child, ok := strings.CutPrefix(line, "child ")
	pid, atoi := strconv.Atoi(child)
	if err != nil || !ok || atoi != nil {
		w.t.Fatalf("%q, %v\n%s", line, err, p.Output())
	}
	given, err := os.ReadFile(told)
	if err != nil {
		w.t.Fatal(err)
	}
	w.addToken(secrets, "the program's token", string(given))
	running(p, pid)
}

// addToken makes an IAM token a secret: what nobody can make who has not the key is its signature.
func (w *world) addToken(secrets rig.Secrets, name, token string) {
	w.t.Helper()
	_, signature, ok := strings.Cut(token, "X-Amz-Signature=")
	signature, _, _ = strings.Cut(strings.TrimSpace(signature), "&")
	if !ok || len(signature) != 64 {
		w.t.Fatalf("%s is %q", name, token)
	}
	secrets.Add(name, []byte(signature))
}

// rejected has commands fail for the credentials that they have.
func (w *world) rejected(started func(*rig.Proc) *rig.Proc, secrets rig.Secrets) {
	w.t.Helper()
	const wrong = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	secrets.Add("a wrong secret access key", []byte(wrong))
	for _, args := range [][]string{
		{"forward", "-d", w.far.Addr(), ":"}, {"forward", "--no-agent", w.far.Addr(), ":"}, {"token", "rds:orders", "--user", "app"}, {"status"},
	} {
		cmd := exec.Command(filepath.Join(bin, "bastion"), args...)
		p, err := rig.StartCmd(append(slices.Clone(w.env), "AWS_SECRET_ACCESS_KEY="+wrong), cmd)
		if err != nil {
			w.t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
		code, err := p.Wait(ctx)
		cancel()
		if err != nil || code == 0 {
			w.t.Errorf("bastion %q with a wrong key: exit code %d, %v\n%s", args, code, err, p.Output())
		}
		started(p)
	}
}

// keysOf takes the keys of a process that has a link to the task from its memory.
func (w *world) keysOf(secrets rig.Secrets, pid int, task lab.Task) {
	w.t.Helper()
	seeds, err := rig.PrivateKeys(pid)
	if err != nil || len(seeds) == 0 {
		w.t.Fatalf("the private key is not in the memory of process %d: %v", pid, err)
	}
	for i, seed := range seeds {
		secrets.Add(fmt.Sprintf("private key %d of process %d", i, pid), seed)
	}
	// A token that opens a session's websocket: the service's answer may still be there, or a value made from it.
	tokens, err := rig.InMemory(pid, regexp.MustCompile(`Token(?:Value)?":"([A-Za-z0-9+/=]{80,})"`))
	if err != nil || len(tokens) == 0 {
		w.t.Errorf("no session's token is in the memory of process %d: %v", pid, err)
	}
	for i, token := range tokens {
		secrets.Add(fmt.Sprintf("token %d of a session of process %d", i, pid), token)
	}
	// A bond's key stands near its id, of which the log has the beginning.
	keys, hostKeys := 0, w.hostKeys()
	for _, e := range w.audit(task, "bond-open") {
		id, err := hex.DecodeString(fmt.Sprint(e["bond"]))
		if err != nil {
			w.t.Fatalf("%v: %v", e, err)
		}
		found, err := rig.After(pid, id, 128, 32, hostKeys...)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, key := range found {
			keys++
			secrets.Add(fmt.Sprintf("what may be bond %v's key, %d", e["bond"], keys), key)
		}
	}
	if keys == 0 {
		w.t.Errorf("no bond's key is in the memory of process %d", pid)
	}
}

// hostKeys are those that the programs remember, which are no secrets, as SSH sends them.
func (w *world) hostKeys() (found [][]byte) {
	w.t.Helper()
	names, err := filepath.Glob(filepath.Join(w.home, "run", "host-key-*"))
	if err != nil || len(names) == 0 {
		w.t.Fatalf("no bastion's host key is remembered: %v", err)
	}
	for _, name := range names {
		var remembered struct {
			HostKey string `json:"host_key"`
		}
		data, err := os.ReadFile(name)
		if err == nil {
			err = json.Unmarshal(data, &remembered)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(remembered.HostKey))
		if err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
		found = append(found, key.Marshal())
	}
	return found
}

// noSecretProcess looks at the arguments and environments of the world's processes.
func (w *world) noSecretProcess(secrets rig.Secrets, given []int, want ...int) {
	w.t.Helper()
	processes, err := rig.Processes(func(p rig.Process) bool {
		return p.PID != os.Getpid() && (strings.Contains(p.Args+p.Environ, w.home) || strings.Contains(p.Args, bin) ||
			slices.Contains(given, p.PID) || slices.Contains(want, p.PID))
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range processes {
		want = slices.DeleteFunc(want, func(pid int) bool { return pid == p.PID })
		if names := secrets.In([]byte(p.Args)); len(names) > 0 {
			w.t.Errorf("secrets in the arguments of process %d: %q\n%q", p.PID, names, p.Args)
		}
		if names := secrets.In([]byte(p.Environ)); len(names) > 0 && !slices.Contains(given, p.PID) {
			w.t.Errorf("secrets in the environment of process %d: %q\n%q", p.PID, names, p.Args)
		}
	}
	if len(want) > 0 {
		w.t.Errorf("processes %v were not looked at", want)
	}
	w.t.Logf("%d processes", len(processes))
}
