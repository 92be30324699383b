//go:build unix

package lab_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/lab"
)

// publicKey returns a new public key in authorized_keys form.
func publicKey(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// Keys that are sent to an instance, by the AWS CLI and the SDK, are there for a minute, as sshd takes them.
func TestInstanceConnect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := quick(t)
	cfg.Instances = map[string]lab.Instance{
		"i-0123456789abcdef0":  {ActiveKeys: dir},
		"i-0aaaaaaaaaaaaaaaa":  {},
		"i-0fffffffffffffff0":  {ActiveKeys: dir, Offline: true},
		"mi-0123456789abcdef0": {ActiveKeys: dir},
	}
	l := start(t, cfg)
	first, second := publicKey(t), publicKey(t)
	c := ec2instanceconnect.NewFromConfig(sdk(t, l.Env()), func(o *ec2instanceconnect.Options) { o.RetryMaxAttempts = 1 })
	send := func(id, user, key string) error {
		_, err := c.SendSSHPublicKey(t.Context(), &ec2instanceconnect.SendSSHPublicKeyInput{
			InstanceId: aws.String(id), InstanceOSUser: aws.String(user), SSHPublicKey: aws.String(key),
		})
		return err
	}
	for _, tt := range []struct{ name, id, user, key, code string }{
		{"key", "i-0123456789abcdef0", "me", "no key", "InvalidArgsException"},
		{"two keys", "i-0123456789abcdef0", "me", first + "\n" + second, "InvalidArgsException"},
		{"user", "i-0123456789abcdef0", "../me", first, "InvalidArgsException"},
		{"unknown", "i-0bbbbbbbbbbbbbbbb", "me", first, "EC2InstanceNotFoundException"},
		{"no instance", "mi-0123456789abcdef0", "me", first, "EC2InstanceNotFoundException"},
		{"offline", "i-0fffffffffffffff0", "me", first, "EC2InstanceStateInvalidException"},
		{"takes none", "i-0aaaaaaaaaaaaaaaa", "me", first, "EC2InstanceUnavailableException"},
	} {
		t.Run(tt.name, func(t *testing.T) { wantCode(t, send(tt.id, tt.user, tt.key), tt.code, "") })
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("refused keys are there: %v, %v", left, err)
	}
	if err := send("i-0123456789abcdef0", "me", first); err != nil {
		t.Fatal(err)
	}
	if err := send("i-0123456789abcdef0", "me", second); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "me"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(got), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], `" `+first) || !strings.HasSuffix(lines[1], `" `+second) || lines[2] != "" {
		t.Fatalf("the instance has %q", got)
	}
	m := keyLine.FindStringSubmatch(lines[0])
	if m == nil {
		t.Fatalf("the instance has %q", lines[0])
	}
	until, err := time.Parse("20060102150405Z", m[1])
	if left := time.Until(until); err != nil || left > time.Minute || left < -10*time.Minute {
		t.Errorf("accepted until %s: %v", m[1], err)
	}
}

// keyLine is a line of a user's file.
var keyLine = regexp.MustCompile(`^expiry-time="(\d{14}Z)" ssh-`)

func TestInstanceConnectByCLI(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := quick(t)
	cfg.Instances = map[string]lab.Instance{"i-0123456789abcdef0": {ActiveKeys: dir}}
	l := start(t, cfg)
	key := publicKey(t)
	out := newCLI(t, l, l.Env()).run(t, "ec2-instance-connect", "send-ssh-public-key", "--instance-id", "i-0123456789abcdef0",
		"--instance-os-user", "ec2-user", "--ssh-public-key", key)
	if at(out, "Success") != true {
		t.Errorf("the CLI got %v", out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "ec2-user"))
	if err != nil || !keyLine.Match(got) || !strings.HasSuffix(string(got), key+"\n") {
		t.Errorf("the instance has %q, %v", got, err)
	}
}
