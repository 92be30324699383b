package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/vectors"
	"github.com/bastion-ssm/bastion/sessions/frame"
)

func execSpec(command string) Spec {
	return Spec{ID: "s", Document: DocECSExec, Target: testTarget, Command: command, Exec: execReal}
}

// allOutput reads to channel_closed and returns the output before.
func (p *peer) allOutput() string {
	p.t.Helper()
	var out bytes.Buffer
	for !p.gone {
		if _, err := p.read(10 * time.Second); err != nil {
			p.t.Fatalf("after output %q: %v", &out, err)
		}
		p.deliver(&out)
	}
	return out.String()
}

// The agent splits the command line by shell rules, but does not run it in a shell. stdout and stderr come merged, with a pty's
// line ends.
func TestExecCommandLine(t *testing.T) {
	g := newGateway(t, Config{})
	p := start(t, g, execSpec(`sh -c 'echo "$0 $1"; echo err >&2' "a  b" '$HOME *'`))
	if got := p.allOutput(); got != "a  b $HOME *\r\nerr\r\n" {
		t.Errorf("output %q", got)
	}
	if p.closed != "" {
		t.Errorf("channel_closed says %q", p.closed)
	}
	if len(g.Sessions()) > 0 {
		t.Error("the session lives on")
	}
}

func TestExecInputAndSize(t *testing.T) {
	g := newGateway(t, Config{})
	p := start(t, g, execSpec(`sh -c 'stty -echo; echo ready; read x; stty size; read y; echo "got $y"'`))
	if got := string(p.output(7)); got != "ready\r\n" {
		t.Fatalf("output %q", got)
	}
	p.send(frame.PayloadSize, []byte(`{"cols":100,"rows":40}`))
	p.send(frame.PayloadOutput, []byte("\r"))
	p.send(frame.PayloadOutput, []byte("line\r"))
	if got := p.allOutput(); got != "40 100\r\ngot line\r\n" {
		t.Errorf("output %q", got)
	}
}

func TestExecDelay(t *testing.T) {
	g := newGateway(t, Config{ExecDelay: 150 * time.Millisecond})
	began := time.Now()
	p := start(t, g, execSpec("echo x"))
	p.await("output", isPayload(frame.PayloadOutput))
	if d := time.Since(began); d < 150*time.Millisecond {
		t.Errorf("first output after %v", d)
	}
}

func TestExecNotStarted(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{
		"/nonexistent --x": "\n----------ERROR-------\nUnable to start command: Failed to start pty: " +
			"fork/exec /nonexistent: no such file or directory\n\n",
		"no-such-program": "\n----------ERROR-------\nUnable to start command: Failed to start pty: " +
			"exec: \"no-such-program\": executable file not found in $PATH\n\n",
		"echo 'open": "\n----------ERROR-------\nUnable to start command: Failed to parse commands input: " +
			"EOF found when expecting closing quote\n\n",
	} {
		g := newGateway(t, Config{AgentDelay: 200 * time.Millisecond}) // the client is there when it happens
		spec := execSpec(command)
		p := start(t, g, spec)
		if got := p.allOutput(); got != "" {
			t.Errorf("%s: output %q", command, got)
		}
		if p.closed != want {
			t.Errorf("%s: channel_closed says %q, not %q", command, p.closed, want)
		}
	}
}

func TestExecTerminateKills(t *testing.T) {
	g := newGateway(t, Config{})
	ended := make(chan error, 1)
	spec := execSpec(`sh -c 'echo up; sleep 1000; echo never'`)
	spec.Exec = func(_ context.Context, argv []string) (Process, error) {
		proc, err := ExecProcess(exec.Command(argv[0], argv[1:]...))
		return waitNotifier{proc, ended}, err
	}
	p := start(t, g, spec)
	p.output(4)
	if err := g.Terminate("s"); err != nil {
		t.Fatal(err)
	}
	p.end()
	if err := <-ended; err == nil {
		t.Error("the command was not killed")
	}
}

type waitNotifier struct {
	Process
	ended chan<- error
}

func (w waitNotifier) Wait() error {
	err := w.Process.Wait()
	w.ended <- err
	return err
}

func TestShellDocument(t *testing.T) {
	g := newGateway(t, Config{})
	spec := execSpec("")
	spec.Document = DocShell
	spec.Exec = func(_ context.Context, argv []string) (Process, error) {
		if len(argv) != 0 {
			t.Errorf("argv %q", argv)
		}
		return ExecProcess(exec.Command("sh"))
	}
	p := start(t, g, spec)
	waitFor(t, "the shell", func() bool { return handlerReady(g, "s") })
	p.send(frame.PayloadOutput, []byte("stty -echo; echo $((6*7)); exit\r"))
	if got := p.allOutput(); !strings.HasSuffix(got, "42\r\n") {
		t.Errorf("output %q", got)
	}
}

func TestUTF8Filter(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []string
		out  []string
	}{
		{"ASCII", []string{"abc"}, []string{"abc"}},
		{"split characters", []string{"a\xe2", "\x82", "\xac\xf0\x9f", "\x98\x80"}, []string{"a", "", "€", "😀"}},
		{"a wrong byte, once it is certain", []string{"a\xffbcd"}, []string{"a\xffbcd"}},
		{"a wrong byte near the end waits", []string{"abcd\xff", "efgh"}, []string{"abcd", "\xffefgh"}},
		{"an incomplete character is lost at the end", []string{"abc\xe2\x82"}, []string{"abc"}},
		{"the replacement character itself", []string{"\uFFFD"}, []string{"\uFFFD"}},
	} {
		var got []string
		f := utf8Filter{send: func(b []byte) error {
			got = append(got, string(b))
			return nil
		}}
		for _, in := range c.in {
			if err := f.write([]byte(in)); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Join(got, "|") != strings.Join(c.out, "|") {
			t.Errorf("%s: %q, not %q", c.name, got, c.out)
		}
	}
}

// kmsClient answers the handshake of an encrypted session with key, as far as it goes.
func kmsClient(t *testing.T, p *peer, key []byte) {
	t.Helper()
	m := p.await("handshake request", isPayload(frame.PayloadHandshakeRequest))
	if !bytes.Contains(m.Payload, []byte(`"KMSKeyId":"key-1"`)) {
		t.Errorf("handshake request %s", m.Payload)
	}
	result, err := json.Marshal(map[string]any{"ClientVersion": "1.3.0.0", "ProcessedClientActions": []map[string]any{
		{"ActionType": "SessionType", "ActionStatus": 1},
		{"ActionType": "KMSEncryption", "ActionStatus": 1, "ActionResult": map[string]any{"KMSCipherTextKey": []byte("wrapped")}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.send(frame.PayloadHandshakeResponse, result)
	if len(key) != dataKeyBytes {
		return
	}
	p.await("challenge", isPayload(frame.PayloadChallengeRequest))
	p.send(frame.PayloadChallengeResponse, answerChallenge(t, key, p.frames))
}

// The agent's key and the client's are not mixed up: each opens what its side has recorded.
func TestCipherOpensTheRecording(t *testing.T) {
	var key struct{ Plaintext []byte }
	opened := 0
	var c *sessionCipher
	for _, e := range vectors.Read(t, "ecs-exec-kms") {
		if e.Event == "data_key" {
			err := json.Unmarshal(e.Info, &key)
			if err != nil {
				t.Fatal(err)
			}
			if c, err = newSessionCipher(key.Plaintext); err != nil {
				t.Fatal(err)
			}
		}
		if e.Message.PayloadType != frame.PayloadOutput {
			continue
		}
		aead, want := c.out, "hello kms\r\n^@"
		if e.From == "client" {
			aead, want = c.in, "\x00"
		}
		sealed := e.Message.Payload
		plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], nil)
		if err != nil || string(plain) != want {
			t.Errorf("from the %s: %q, %v", e.From, plain, err)
		}
		opened++
	}
	if opened != 2 {
		t.Errorf("%d payloads opened", opened)
	}
}

func TestExecEncrypted(t *testing.T) {
	key := noise(5, dataKeyBytes)
	g := newGateway(t, Config{})
	spec := execSpec(`sh -c 'stty -echo; echo ready; read x; echo "got $x"'`)
	spec.KMSKeyID = "key-1"
	spec.Decrypt = func(_ context.Context, wrapped []byte, encryptionContext map[string]string) ([]byte, error) {
		if string(wrapped) != "wrapped" || len(encryptionContext) != 2 || encryptionContext["aws:ssm:SessionId"] != "s" ||
			encryptionContext["aws:ssm:TargetId"] != testTarget {
			t.Errorf("Decrypt(%q, %v)", wrapped, encryptionContext)
		}
		return key, nil
	}
	p := start(t, g, spec)
	kmsClient(t, p, key)
	p.await("handshake complete", isPayload(frame.PayloadHandshakeComplete))
	agent, err := newSessionCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	client := sessionCipher{out: agent.in, in: agent.out}
	var out bytes.Buffer
	take := func(m frame.Message) {
		plain, err := client.open(m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(plain)
	}
	for out.String() != "ready\r\n" {
		take(p.await("output", isPayload(frame.PayloadOutput)))
	}
	p.send(frame.PayloadOutput, client.seal([]byte("secret\r")))
	for !strings.HasSuffix(out.String(), "got secret\r\n") {
		take(p.await("output", isPayload(frame.PayloadOutput)))
	}
	p.end()
}

func TestExecEncryptionFails(t *testing.T) {
	t.Parallel()
	key := noise(5, dataKeyBytes)
	for name, c := range map[string]struct {
		key  []byte // the client's
		err  error
		want string
	}{
		"Decrypt is denied": {nil, errors.New("AccessDeniedException"), "Unable to retrieve data key, Error when decrypting data key AccessDeniedException"},
		"short key":         {nil, nil, "data key of 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, Config{})
			spec := execSpec("echo never")
			spec.KMSKeyID = "key-1"
			spec.Decrypt = func(context.Context, []byte, map[string]string) ([]byte, error) { return c.key, c.err }
			p := start(t, g, spec)
			kmsClient(t, p, c.key)
			if out := p.end(); !strings.Contains(out, c.want) {
				t.Errorf("channel_closed says %q", out)
			}
		})
	}
	t.Run("wrong answer to the challenge", func(t *testing.T) {
		g := newGateway(t, Config{})
		spec := execSpec("echo never")
		spec.KMSKeyID = "key-1"
		spec.Decrypt = func(context.Context, []byte, map[string]string) ([]byte, error) { return key, nil }
		p := start(t, g, spec)
		kmsClient(t, p, nil)
		p.await("challenge", isPayload(frame.PayloadChallengeRequest))
		agent, err := newSessionCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := json.Marshal(encryptionChallenge{(&sessionCipher{out: agent.in}).seal([]byte("something else"))})
		if err != nil {
			t.Fatal(err)
		}
		p.send(frame.PayloadChallengeResponse, answer)
		if out := p.end(); !strings.Contains(out, "Encryption challenge does not match!") {
			t.Errorf("channel_closed says %q", out)
		}
	})
}

// The stand-in for a pty, where there is none.
func TestPipedProcess(t *testing.T) {
	proc, err := startPiped(exec.Command("sh", "-c", "echo out; read x; echo $x >&2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := proc.Resize(80, 25); err != nil {
		t.Error(err)
	}
	if _, err := proc.Write([]byte("in\n")); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(proc)
	if err != nil || string(got) != "out\r\nin\r\n" {
		t.Errorf("output %q, %v", got, err)
	}
	if err := proc.Wait(); err != nil {
		t.Error(err)
	}

	proc, err = startPiped(exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := proc.Read(make([]byte, 1))
		read <- err
	}()
	if err := proc.Kill(); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, io.EOF) {
		t.Errorf("Read: %v", err)
	}
	if err := proc.Wait(); err == nil {
		t.Error("killed, but Wait returned nil")
	}
	if _, err := startPiped(exec.Command("/nonexistent")); err == nil {
		t.Error("no error for what cannot be started")
	}
}
