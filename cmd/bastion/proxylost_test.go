//go:build unix

package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

const cacheHost = "master." + lab.CacheID + ".abc123.euc1.cache.amazonaws.com"

// killTask ends the lab's task as a crash does.
func (e *labEnv) killTask() {
	e.t.Helper()
	if err := e.KillTask(e.Tasks()[0].ID); err != nil {
		e.t.Fatal(err)
	}
}

// A proxy whose connection is cut reports that in one line, with the reason, and ends with the code for it. One whose target ends
// the connection reports nothing.
func TestProxyLost(t *testing.T) {
	t.Parallel()
	const lost = `^bastion: the connection to \S+ was lost: .+\n$`
	for name, tt := range map[string]struct {
		env  string
		host string
		cut  func(*labEnv)
		code int
		says string // on standard error; "": nothing
		last string // after which the target ends the connection
	}{
		"agent, task killed":          {"BASTION_NO_AGENT=false", cacheHost, (*labEnv).killTask, 8, lost, ""},
		"alone, task killed":          {"BASTION_NO_AGENT=true", cacheHost, (*labEnv).killTask, 8, lost, ""},
		"its SSH server, task killed": {"BASTION_NO_AGENT=true", "bastion", (*labEnv).killTask, 8, lost, ""},
		"agent killed": {"BASTION_NO_AGENT=false", cacheHost, func(e *labEnv) {
			info, err := e.client().Info(e.t.Context())
			if err != nil {
				e.t.Fatal(err)
			}
			if err := syscall.Kill(info.PID, syscall.SIGKILL); err != nil {
				e.t.Fatal(err)
			}
			e.killed = true
		}, 8, `^bastion: the connection to \S+ was lost: the agent has ended\n$`, ""},
		"agent stopped":             {"BASTION_NO_AGENT=false", cacheHost, func(e *labEnv) { e.must("agent", "stop") }, 8, lost, ""},
		"agent, the target ends it": {"BASTION_NO_AGENT=false", cacheHost, nil, 0, "", "no protocol\r\n"},
		"alone, the target ends it": {"BASTION_NO_AGENT=true", cacheHost, nil, 0, "", "no protocol\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startAgentLab(t, nil)
			cmd, in, out, stderr := e.piped([]string{tt.env, "BASTION_QUIET=false"}, "proxy", tt.host, "6379")
			read := bufio.NewReader(out)
			if tt.host != "bastion" {
				_, _ = io.WriteString(in, "*1\r\n$4\r\nPING\r\n")
			}
			if line, err := read.ReadString('\n'); err != nil {
				t.Fatalf("%q, %v\n%s", line, err, stderr.String())
			}
			if tt.cut != nil {
				tt.cut(e)
			} else {
				_, _ = io.WriteString(in, tt.last)
			}
			// Standard input stays open, as ssh's does, until the end of standard output has been seen.
			if _, err := io.Copy(io.Discard, read); err != nil {
				t.Error(err)
			}
			_ = in.Close()
			var exit *exec.ExitError
			if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			said := stderr.String()
			if code := cmd.ProcessState.ExitCode(); code != tt.code || tt.says == "" && said != "" || !regexp.MustCompile(tt.says).MatchString(said) {
				t.Errorf("exit code %d, want %d; it says %q, want %s", code, tt.code, said, tt.says)
			}
		})
	}
}

// What a proxy says of its end is among what ssh says, which ends its proxy as soon as it sees the end.
func TestProxyLostUnderSSH(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() { // ends with ln
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "SSH-2.0-patient\r\n")
		_, _ = io.Copy(io.Discard, conn)
	}()
	addr := ln.Addr().String()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	e := startAgentLab(t, func(c *lab.Config) { c.Allow = []string{addr} })
	p, err := rig.Start(e.env, rig.Need(t, "ssh"), "-v", "-F", "none", "-o", "ProxyCommand="+e.program+" proxy %h %p", "-p", port,
		"-o", "HostName=127.0.0.1", "alias") // the proxy gets the HostName
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.Stop(syscall.SIGKILL) })
	eventuallyWithin(t, time.Minute, "the target has answered", func() bool { return strings.Contains(p.Output(), "version patient") })
	e.killTask()
	eventuallyWithin(t, time.Minute, "the reason is said", func() bool {
		return strings.Contains(p.Output(), "bastion: the connection to "+addr+" was lost: ")
	})
	if code, err := p.Wait(t.Context()); err != nil || code != 255 {
		t.Errorf("ssh's exit code %d, %v\n%s", code, err, p.Output())
	}
}
