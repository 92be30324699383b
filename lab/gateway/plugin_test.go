package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// tool returns the path of a peer that is built for the tests. It skips the test if the peer is missing; in CI that is a failure.
func tool(t *testing.T, name, env string) string {
	t.Helper()
	path := os.Getenv(env)
	if path == "" {
		path = filepath.Join("..", "..", "build", "tools", name)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is needed (or %s): %v", name, env, err)
		}
		t.Skipf("%s is not built: %v", name, err)
	}
	return path
}

// api answers a client's calls of StartSession (of spec), ResumeSession and TerminateSession.
func api(t *testing.T, g *Gateway, spec Spec) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ SessionId string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		out := map[string]string{"SessionId": in.SessionId}
		switch op := r.Header.Get("X-Amz-Target"); op {
		case "AmazonSSM.StartSession":
			token, err := g.Start(spec)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			out = map[string]string{"SessionId": spec.ID, "TokenValue": token, "StreamUrl": g.StreamURL(spec.ID)}
		case "AmazonSSM.ResumeSession":
			token, err := g.Resume(in.SessionId)
			if err != nil {
				http.Error(w, `{"__type":"DoesNotExistException"}`, http.StatusBadRequest)
				return
			}
			out["TokenValue"], out["StreamUrl"] = token, g.StreamURL(in.SessionId)
		case "AmazonSSM.TerminateSession":
			_ = g.Terminate(in.SessionId)
		default:
			http.Error(w, op, http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(out)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// runPlugin starts a session and the plugin on it, as the AWS CLI does.
func runPlugin(t *testing.T, g *Gateway, spec Spec) (stdin io.WriteCloser, stdout *bufio.Reader) {
	t.Helper()
	path := tool(t, "session-manager-plugin", "BASTION_TEST_PLUGIN")
	token, err := g.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	started, err := json.Marshal(map[string]string{
		"SessionId": spec.ID, "TokenValue": token, "StreamUrl": g.StreamURL(spec.ID),
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, string(started), "eu-central-1", "StartSession", "",
		fmt.Sprintf(`{"Target":%q}`, spec.Target), api(t, g, spec))
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=AKIALABLABLABLABLAB0", "AWS_SECRET_ACCESS_KEY=lab", "HOME="+t.TempDir(),
		"TMPDIR="+t.TempDir()) // of its unix socket, which a killed plugin leaves
	stdin, err = cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("plugin's stderr: %s", &stderr)
		}
	})
	return stdin, bufio.NewReader(out)
}

// skipTo reads lines until one contains text.
func skipTo(t *testing.T, r *bufio.Reader, text string) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if strings.Contains(line, text) {
			return line
		}
		if err != nil {
			t.Fatalf("plugin's output ended before %q: %v; last line %q", text, err, line)
		}
	}
}

func TestPluginSSHDocument(t *testing.T) {
	g := newGateway(t, Config{})
	stdin, stdout := runPlugin(t, g, sshSpec("plugin-ssh", serveTCP(t, echo)))
	skipTo(t, stdout, "Starting session with SessionId: plugin-ssh")
	for _, line := range []string{"hello\n", "again\n", strings.Repeat("x", 3000) + "\n"} {
		if _, err := io.WriteString(stdin, line); err != nil {
			t.Fatal(err)
		}
		got, err := stdout.ReadString('\n')
		if err != nil || got != line {
			t.Fatalf("echo of %.20q: %.20q, %v", line, got, err)
		}
	}
	if err := g.Terminate("plugin-ssh"); err != nil {
		t.Fatal(err)
	}
	skipTo(t, stdout, "Exiting session with sessionId: plugin-ssh")
}

var opened = regexp.MustCompile(`Port (\d+) opened`)

// pluginPort starts the plugin on a port document and returns its local address.
func pluginPort(t *testing.T, g *Gateway, spec Spec) string {
	t.Helper()
	_, stdout := runPlugin(t, g, spec)
	line := skipTo(t, stdout, "opened for sessionId")
	return "127.0.0.1:" + opened.FindStringSubmatch(line)[1]
}

// The connections are open together but take turns: the plugin's list of unacknowledged messages is not safe for concurrent use. In
// about one of ten busy uploads its reader panics, recovers and is gone, which makes the plugin deaf.
func TestPluginPortForwarding(t *testing.T) {
	g := newGateway(t, Config{})
	addr := pluginPort(t, g, Spec{
		ID: "plugin-port", Document: DocPort, Target: testTarget, Port: serveTCP(t, generate), Dial: dialer,
	})
	conns := make([]net.Conn, 3)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		conns[i] = c
	}
	for round := range 3 {
		for i, c := range conns {
			seed, n := uint32(round*10+i), 5000*(i+1)
			if _, err := c.Write(request(seed, n)); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, n)
			if _, err := io.ReadFull(c, got); err != nil {
				t.Fatalf("connection %d, round %d: %v", i, round, err)
			}
			if !bytes.Equal(got, noise(seed, n)) {
				t.Errorf("connection %d, round %d: the download has changed", i, round)
			}
		}
	}
}

func TestPluginPortForwardingToRemoteHostDenied(t *testing.T) {
	// Time for the plugin, which hangs for good if a message comes while it sets up its multiplexer.
	g := newGateway(t, Config{ReportDelay: 300 * time.Millisecond})
	_, stdout := runPlugin(t, g, Spec{
		ID: "plugin-denied", Document: DocPortRemote, Target: testTarget, Host: "169.254.169.254", Port: 80, Dial: dialer,
	})
	skipTo(t, stdout, "Forwarding to IP address 169.254.169.254 is forbidden.")
}

// The plugin resumes downloads only, and not always: uploads it loses.
func TestPluginResumesAfterCut(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"close", "reset"} {
		t.Run(how, func(t *testing.T) {
			g := newGateway(t, Config{})
			const total = 300_000
			half := make(chan struct{})
			want := noise(1, total)
			port := serveTCP(t, func(c net.Conn) {
				_, _ = c.Write(want[:total/2])
				<-half
				_, _ = c.Write(want[total/2:])
				_, _ = io.Copy(io.Discard, c)
			})
			id := "plugin-cut-" + how
			_, stdout := runPlugin(t, g, sshSpec(id, port))
			skipTo(t, stdout, "Starting session")
			got := make([]byte, total)
			if _, err := io.ReadFull(stdout, got[:total/2]); err != nil {
				t.Fatal(err)
			}
			// Nor would it survive a reset before its last acknowledgement: it would deliver that message twice.
			waitFor(t, "the last acknowledgement", func() bool { return g.Sessions()[0].Unacked == 0 })
			if n := g.Cut(id, how); n != 1 {
				t.Fatalf("Cut: %d websockets", n)
			}
			// Messages that the agent sends while the plugin is away may be lost for good: the plugin does not acknowledge twice,
			// and the agent resends only the oldest.
			waitFor(t, "the plugin to resume", func() bool {
				i := g.Sessions()
				return len(i) == 1 && i[0].Resumes == 1 && i[0].Connected
			})
			close(half)
			if _, err := io.ReadFull(stdout, got[total/2:]); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("the download has changed")
			}
		})
	}
}
