package rig

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
)

// Moto starts moto's server, an emulator of AWS's APIs that is not ours, and returns its address.
func Moto(t testing.TB) string {
	t.Helper()
	program, err := exec.LookPath("moto_server")
	if err != nil { // of all that tests need this alone comes by pip, whose index may be out of reach
		t.Skip("moto_server is missing: pip install 'moto[server]==5.2.1'")
	}
	cmd := exec.Command(program, "-H", "127.0.0.1", "-p", "0")
	cmd.Env = append(Environ(), "PYTHONUNBUFFERED=1")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	addresses := make(chan string, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(addresses)
		running := regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)
		for lines := bufio.NewScanner(read); lines.Scan(); { // to the end, so that it never waits for a reader
			if found := running.FindStringSubmatch(lines.Text()); found != nil {
				select {
				case addresses <- found[1]:
				default:
				}
			}
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		reader.Wait()
		_ = read.Close()
	})
	select {
	case address, ok := <-addresses:
		if !ok {
			t.Fatal("moto_server ended")
		}
		return address
	case <-time.After(90 * time.Second):
		t.Fatal("moto_server does not say where it listens")
		return ""
	}
}

// MotoClient returns an HTTP client of the test's own for the SDK's calls to moto's server.
//
// The SDK closes a request's body when the answer begins (smithy-go, ClientHandler.Handle). On a busy machine net/http may not have
// looked for the body's end by then: it finds the body closed, and breaks the connection off in the middle of the answer. So net/http
// gets a body that the SDK does not know.
func MotoClient(t testing.TB) *http.Client {
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: ownBody{transport}}
}

type ownBody struct{ http.RoundTripper }

func (o ownBody) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.ContentLength <= 0 {
		return o.RoundTripper.RoundTrip(req)
	}
	body, err := io.ReadAll(req.Body)
	if err := errors.Join(err, req.Body.Close()); err != nil {
		return nil, err
	}
	own := req.Clone(req.Context())
	own.Body = io.NopCloser(bytes.NewReader(body))
	return o.RoundTripper.RoundTrip(own)
}

// MotoRetryer is for clients of moto's server. It tries a call again whose connection broke, which happens on a busy machine, and no other
// call: moto answers what it lacks with an error of a server.
func MotoRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.Retryables = []retry.IsErrorRetryable{retry.RetryableConnectionError{}}
	})
}
