//go:build unix

package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The command asks for the code of a role's MFA device once, at the terminal, even if none of the standard streams is one. Without
// a terminal, or detached, the command says so.
func TestMFA(t *testing.T) {
	t.Parallel()
	aws := newCallers(t)
	p := newPerson(t, aws)
	p.file("config", "[profile r]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = k\nmfa_serial = arn:aws:iam::1:mfa/me\n"+
		"[profile k]\naws_access_key_id = AKIAUSER\naws_secret_access_key = s\n")
	const prompt = "MFA code of arn:aws:iam::1:mfa/me: "
	for _, command := range []string{
		"forward rds:orders :", "exec rds:orders --iam-user u -- true", "proxy db.internal 5432 </dev/null", "status",
	} {
		before := strings.Count(aws.asked(), "role by AKIAUSER with 123456")
		shell := exec.CommandContext(t.Context(), "sh", "-c", filepath.Join(scratch, "bastion")+" "+
			strings.Replace(command, " ", " --profile r ", 1)+" 2>"+filepath.Join(p.home, "errors")+"; echo exit code $?")
		if command == "status" {
			shell.Args[2] = filepath.Join(scratch, "bastion") + " status --profile r; echo exit code $?"
		}
		term := startTerminal(t, shell, p.env, p.home)
		eventuallyWithin(t, 90*time.Second, "the question of "+command, func() bool { return strings.Contains(term.said.String(), prompt) })
		if _, err := term.file.WriteString("123456\n"); err != nil {
			t.Fatal(err)
		}
		eventuallyWithin(t, 90*time.Second, "the end of "+command, func() bool { return strings.Contains(term.said.String(), "exit code") })
		if n := strings.Count(term.said.String(), prompt); n != 1 {
			t.Errorf("%s: the code was asked for %d times\n%s", command, n, term.said.String())
		}
		if after := strings.Count(aws.asked(), "role by AKIAUSER with 123456"); after != before+1 {
			t.Errorf("%s: %d roles were assumed: %s", command, after-before, aws.asked())
		}
	}
	code, out := p.run(nil, "forward", "-d", "--profile", "r", "rds:orders", ":")
	if code != 2 || !strings.Contains(out, "MFA device arn:aws:iam::1:mfa/me") {
		t.Errorf("detached: exit code %d\n%s", code, out)
	}
	alone := exec.CommandContext(t.Context(), "setsid", "--wait", filepath.Join(scratch, "bastion"), "status", "--profile", "r")
	alone.Env, alone.Dir = p.env, p.home
	text, _ := alone.CombinedOutput()
	if code := alone.ProcessState.ExitCode(); code != 4 || !strings.Contains(string(text), "no terminal to ask at") {
		t.Errorf("without a terminal: exit code %d\n%s", code, text)
	}
}
