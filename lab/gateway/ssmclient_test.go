package gateway

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"testing"
)

// ssm-session-client passes a port session both ways, on a line without faults, one message at a time. With more in flight the
// agent may resend a late message, which this client delivers twice. It runs as a program of its own, because it has data races.
func TestSSMSessionClient(t *testing.T) {
	path := tool(t, "ssmpeer", "BASTION_TEST_SSMPEER")
	g := newGateway(t, Config{})
	spec := sshSpec("ssmclient", serveTCP(t, generate))
	cmd := exec.Command(path, "ssh", testTarget, "22")
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=AKIALABLABLABLABLAB0", "AWS_SECRET_ACCESS_KEY=lab",
		"AWS_REGION=eu-central-1", "HOME="+t.TempDir(), "AWS_ENDPOINT_URL="+api(t, g, spec))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("ssmpeer's stderr: %s", &stderr)
		}
	}()
	waitFor(t, "the dial", func() bool { return handlerReady(g, spec.ID) }) // it does not resend
	for seed := range uint32(3) {
		const n = 1000
		if _, err := stdin.Write(request(seed, n)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, n)
		if _, err := io.ReadFull(stdout, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, noise(seed, n)) {
			t.Error("the download has changed")
		}
	}
}
