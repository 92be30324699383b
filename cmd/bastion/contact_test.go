package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// long is a time that no test waits for.
const long = 10 * time.Minute

// The first connection to a bastion does not wait for the output of ECS Exec, encrypted or not.
func TestFirstContact(t *testing.T) {
	t.Parallel()
	for name, kms := range map[string]bool{"in clear": false, "KMS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startLab(t, func(c *lab.Config) {
				c.KMS, c.Gateway = kms, gateway.Config{ExecDelay: long}
			})
			p, f := e.forwards(nil, "cache:sessions", ":")
			if err := ping(f[0].Listen); err != nil {
				t.Fatalf("%v\n%s", err, p.Output())
			}
			e.stop(p, syscall.SIGINT, 130)
			e.noSessions()
		})
	}
}

// grantBy returns the setting that hands grants over by a script, in which $1 is the word and $bastiond the program.
func (e *labEnv) grantBy(script string) (env []string) {
	e.t.Helper()
	program, err := bastiond()
	if err != nil {
		e.t.Fatal(err)
	}
	path := filepath.Join(e.t.TempDir(), "grant")
	if err := os.WriteFile(path, []byte("bastiond="+program+"\n"+script+"\n"), 0o600); err != nil {
		e.t.Fatal(err)
	}
	return []string{"BASTION_GRANT_COMMAND=sh " + path}
}

// A bastiond that does not know secrets is asked again without one, and its answer is waited for.
func TestFirstContactWithOldBastiond(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.AllowHostExec = true })
	words := filepath.Join(t.TempDir(), "words")
	env := e.grantBy("echo ${1%%.*} >>" + words + `
case $1 in
v1.*) exec $bastiond grant $1 ;;
esac
echo 'BASTIOND-GRANT {"v":1,"version":"0","ports":{"ssh":0},"error":"grant: want a word that begins with \"v1.\"","code":"invalid"}'`)
	// On a busy machine an attempt can fail and be made again: what counts is what the words are, not how many.
	granted := func() []string {
		p, f := e.forwards(env, "cache:sessions", ":")
		if err := ping(f[0].Listen); err != nil {
			t.Errorf("%v\n%s", err, p.Output())
		}
		e.stop(p, syscall.SIGINT, 130)
		data, err := os.ReadFile(words)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(data))
	}
	first := granted()
	if len(first) < 2 || first[0] == "v1" || first[len(first)-1] != "v1" {
		t.Errorf("grants %q, want one with a secret and then one without", first)
	}
	// The host key is known now: no secret is needed any more.
	if later := granted()[len(first):]; len(later) == 0 || slices.ContainsFunc(later, func(w string) bool { return w != "v1" }) {
		t.Errorf("grants %q, want one without a secret", later)
	}
	e.noSessions()
}

// An answer with another host key than the proven one ends the link, with the reason. A link that was up ends with exit code 8. If
// the answer came first, the link never comes up.
func TestFirstContactAnswerDiffers(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) {
		c.AllowHostExec = true
		c.Gateway = gateway.Config{ExecDelay: time.Second}
	})
	const other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqhKLrgTxPwzDCnvgqjJFfqNYZmRW9nIXJ1qlY8bYhz"
	r := e.run(e.grantBy(`$bastiond grant $1 | sed 's,ssh-ed25519 [A-Za-z0-9+/]*,`+other+`,'`), "forward", "cache:sessions", ":")
	if r.code != 8 && r.code != 5 || !strings.Contains(r.stderr, "not the pinned") || !strings.Contains(r.stderr, "not the server that was expected") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	e.noSessions()
}

// A grant that the bastion refuses is an error of the first connection, with the bastion's reason.
func TestFirstContactRefused(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.AllowHostExec = true })
	r := e.run(e.grantBy(`echo 'BASTIOND-GRANT {"v":1,"version":"0","ports":{"ssh":0},"error":"it holds 64 grants","code":"full"}'`),
		"forward", "cache:sessions", ":")
	if r.code != 6 || !strings.Contains(r.stderr, "it holds 64 grants") || !strings.Contains(r.stderr, "end links that are not used") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	e.noSessions()
}

// A bastiond on other ports than the usual ones is found by its answer.
func TestFirstContactOnOtherPorts(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) {
		c.TaskEnv = map[string]string{"BASTIOND_LISTEN": "localhost:0", "BASTIOND_BOND_LISTEN": "localhost:0"}
	})
	p, f := e.forwards(nil, "cache:sessions", ":")
	if err := ping(f[0].Listen); err != nil {
		t.Errorf("%v\n%s", err, p.Output())
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
}
