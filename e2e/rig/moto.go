package rig

import (
	"bufio"
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

// MotoRetryer is for clients of moto's server. It tries a call again whose connection broke, which happens on a busy machine, and no other
// call: moto answers what it lacks with an error of a server.
func MotoRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.Retryables = []retry.IsErrorRetryable{retry.RetryableConnectionError{}}
	})
}
