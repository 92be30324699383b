//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/lab"
)

// attached is a command in the foreground whose link the test disturbs.
type attached struct {
	name string
	*rig.Proc
	dial   func() (net.Conn, error) // a connection to the Redis behind it
	isJSON bool
	held   net.Conn
}

// hold keeps a connection through the command in use.
func (c *attached) hold(t *testing.T) {
	t.Helper()
	c.release()
	eventuallyWithin(t, time.Minute, "a connection through "+c.name, func() bool {
		conn, err := c.dial()
		if err == nil {
			if err = pingOn(conn); err == nil {
				c.held = conn
				return true
			}
			_ = conn.Close()
		}
		return false
	})
}

func (c *attached) release() {
	if c.held != nil {
		_ = c.held.Close()
	}
}

// told counts an event on standard output.
func (c *attached) told(event string) (n int) {
	for _, line := range c.Stdout() {
		var e struct{ Event string }
		if json.Unmarshal([]byte(line), &e) == nil && e.Event == event {
			n++
		}
	}
	return n
}

// connectThrough opens a connection by HTTP CONNECT.
func connectThrough(proxy, dest string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", proxy, 5*time.Second)
	if err != nil {
		return nil, err
	}
	if err = conn.SetDeadline(time.Now().Add(time.Minute)); err == nil {
		_, err = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", dest, dest)
	}
	if err == nil {
		var resp *http.Response
		if resp, err = http.ReadResponse(bufio.NewReader(oneByte{conn}), nil); err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("the proxy answered %s", resp.Status)
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// oneByte reads no more than is asked for.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 1)]) }

// linkEvents are the events of docs/status.md, and what people are told then.
var linkEvents = map[string]string{
	"path_lost":        "bastion: no path to the bastion; the connection waits (for up to 30m)\n",
	"waiting":          "bastion: looking for a path to the bastion: ",
	"path_restored":    "bastion: path restored after ",
	"link_lost":        "bastion: the link is lost; new connections wait while it is restored\n",
	"link_restored":    "bastion: the link is restored after ",
	"bastion_draining": "bastion: the bastion is going away; new connections go to another one\n",
	"link_idle":        "the task was stopped by bastion down; nothing is started now: the next connection starts another one\n",
	"link_wanted":      "bastion: a connection needs the bastion; connecting again\n",
}

// An attached forward or proxy reports each event of the documented table, by the agent and without it: to people on standard
// error, and with -o json to programs on standard output.
func TestLinkEvents(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Events\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(section, -1) {
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			documented[name[1]] = true
			if linkEvents[name[1]] == "" {
				t.Errorf("the event %s is not tried", name[1])
			}
		}
	}
	for name := range linkEvents {
		if !documented[name] {
			t.Errorf("the event %s is not documented", name)
		}
	}

	for _, alone := range []bool{false, true} {
		t.Run(map[bool]string{false: "agent", true: "alone"}[alone], func(t *testing.T) {
			t.Parallel()
			e := startAgentLab(t, nil)
			e.env = append(e.env, "BASTION_RECONNECT_MIN=100ms", "BASTION_RECONNECT_MAX=300ms", "BASTION_QUIET=false",
				"AWS_MAX_ATTEMPTS=1", fmt.Sprintf("BASTION_NO_AGENT=%t", alone))
			var all []*attached
			p, f := e.forwards(nil, "cache:sessions", ":")
			all = append(all, &attached{name: "forward", Proc: p, isJSON: true, dial: func() (net.Conn, error) {
				return net.DialTimeout("tcp", f[0].Listen, 5*time.Second)
			}})
			p = e.start(nil, "socks", "-o", "json", ":")
			line, err := p.Line(t.Context(), 0)
			var proxy forwarding.ProxyInfo
			if err == nil {
				err = json.Unmarshal([]byte(line), &proxy)
			}
			if err != nil {
				t.Fatalf("%v in %q\n%s", err, line, p.Output())
			}
			all = append(all, &attached{name: "socks", Proc: p, isJSON: true, dial: func() (net.Conn, error) {
				return connectThrough(proxy.Listen, f[0].Target)
			}})
			p = e.start(nil, "forward", "cache:sessions", ":")
			if line, err = p.Line(t.Context(), 0); err != nil {
				t.Fatalf("%v\n%s", err, p.Output())
			}
			listen, _, _ := strings.Cut(line, " ")
			all = append(all, &attached{name: "forward in words", Proc: p, dial: func() (net.Conn, error) {
				return net.DialTimeout("tcp", listen, 5*time.Second)
			}})
			told := func(events ...string) {
				t.Helper()
				for _, c := range all {
					for _, name := range events {
						eventuallyWithin(t, time.Minute, c.name+" tells of "+name, func() bool {
							return strings.Contains(c.Output(), linkEvents[name]) && (!c.isJSON || c.told(name) > 0)
						})
					}
				}
			}
			hold := func() {
				t.Helper()
				for _, c := range all {
					c.hold(t)
				}
			}
			t.Cleanup(func() {
				for _, c := range all {
					c.release()
					if t.Failed() {
						t.Logf("%s:\n%s", c.name, c.Output())
					}
				}
			})

			hold()
			if err := e.SetAPIFaults(lab.APIFaults{Deny: []string{"ssm:StartSession"}}); err != nil {
				t.Fatal(err)
			}
			e.endSessions()
			told("path_lost", "waiting")
			if err := e.SetAPIFaults(lab.APIFaults{}); err != nil {
				t.Fatal(err)
			}
			told("path_restored")

			hold()
			if err := e.KillTask(e.Tasks()[0].ID); err != nil { // a crash
				t.Fatal(err)
			}
			told("link_lost", "link_restored")

			hold()
			e.stopByHand()
			told("bastion_draining")
			hold() // by the next one
			for _, c := range all {
				c.release()
			}
			eventuallyWithin(t, time.Minute, "one task is left", func() bool { return e.alive() == 1 })
			e.must("down")
			told("link_idle")
			hold()
			told("link_wanted")
			for _, c := range all {
				eventuallyWithin(t, time.Minute, c.name+" tells of the link again", func() bool {
					return !c.isJSON || c.told("link_restored") >= 2
				})
				if !c.isJSON && slices.ContainsFunc(c.Stdout(), func(s string) bool { return strings.HasPrefix(s, "{") }) {
					t.Errorf("%s prints JSON: %q", c.name, c.Stdout())
				}
				if _, err := c.Stop(syscall.SIGINT); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
