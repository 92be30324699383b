package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

func proxyTo(host string) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: host})
		r.Out.Host = r.In.Host // which the signature covers
	}}
}

// staleSocket leaves an agent's socket without an agent.
func staleSocket(t *testing.T, e *labEnv) {
	t.Helper()
	if err := os.MkdirAll(e.socketDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(e.socketDir(), "control.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// agentAs serves the agent's socket by a handler; nil: it accepts and says nothing.
func agentAs(t *testing.T, e *labEnv, h http.Handler) {
	t.Helper()
	if err := os.MkdirAll(e.socketDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(e.socketDir(), "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if h == nil {
		t.Cleanup(func() { _ = l.Close() })
		return
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// oldBlock writes a block as another version might have.
func oldBlock(t *testing.T, e *labEnv) (path, text string) {
	t.Helper()
	e.must("ssh-config", "--write", "--profile", "lab", "*.corp")
	path = filepath.Join(e.value("HOME"), ".ssh", "config")
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = strings.Replace(string(have), "ServerAliveInterval 60", "ServerAliveInterval 61", 1)
	writeFile(t, path, text)
	return path, text
}

func illMachines() []ill {
	busy := func(t *testing.T, e *labEnv) (env []string, port int) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		port = l.Addr().(*net.TCPAddr).Port
		file := filepath.Join(e.value("HOME"), "bastion.yaml")
		writeFile(t, file, fmt.Sprintf("targets:\n  db: {target: rds:orders, local_port: %d}\n", port))
		return []string{"BASTION_CONFIG=" + file}, port
	}
	return []ill{
		{name: "stale socket", want: []string{"warning machine.agent stale"}, code: 11, breaks: func(t *testing.T, e *labEnv) ([]string,
			[]string,
		) {
			staleSocket(t, e)
			return nil, nil
		}},
		{name: "silent agent", want: []string{"error machine.agent silent"}, code: 9, breaks: func(t *testing.T, e *labEnv) ([]string, []string) {
			agentAs(t, e, nil)
			return nil, nil
		}},
		{name: "agent of another version", want: []string{"warning machine.agent version"}, code: 11, breaks: func(t *testing.T,
			e *labEnv,
		) ([]string, []string) {
			agentAs(t, e, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(`{"v":1,"pid":1,"version":"0.0.1","forwards":[],"links":[],"audit":[]}`))
			}))
			return nil, nil
		}},
		{name: "old OpenSSH block", want: []string{"warning machine.openssh old"}, code: 11, breaks: func(t *testing.T, e *labEnv) ([]string,
			[]string,
		) {
			oldBlock(t, e)
			return nil, nil
		}},
		{
			name: "OpenSSH block of a program that is gone", want: []string{"warning machine.openssh gone"}, code: 11,
			breaks: func(t *testing.T, e *labEnv) ([]string, []string) {
				path, text := oldBlock(t, e)
				_, rest, _ := strings.Cut(text, "ProxyCommand ")
				program, _, _ := strings.Cut(rest, " ")
				writeFile(t, path, strings.ReplaceAll(text, program, "/opt/old/bastion"))
				return nil, nil
			},
		},
		{name: "OpenSSH block without an end", want: []string{"warning machine.openssh unreadable"}, code: 11, breaks: func(t *testing.T,
			e *labEnv,
		) ([]string, []string) {
			path, text := oldBlock(t, e)
			writeFile(t, path, strings.ReplaceAll(text, "# END bastion", "# end"))
			return nil, nil
		}},
		{name: "hosts file", want: []string{"warning machine.hosts left"}, code: 11, breaks: func(t *testing.T, _ *labEnv) ([]string, []string) {
			path := filepath.Join(t.TempDir(), "left")
			writeFile(t, path, "# BEGIN bastion 999999999-1-1\n127.0.0.9 gone.example\n# END bastion 999999999-1-1\n")
			return []string{"BASTION_HOSTS_FILE=" + path}, nil
		}},
		{name: "no hosts file", want: []string{"warning machine.hosts unreadable"}, code: 11, breaks: func(t *testing.T,
			_ *labEnv,
		) ([]string, []string) {
			return []string{"BASTION_HOSTS_FILE=" + t.TempDir() + "/none"}, nil
		}},
		{name: "busy port of a target", target: "db", want: []string{"error machine.ports busy"}, code: 7, breaks: func(t *testing.T,
			e *labEnv,
		) ([]string, []string) {
			env, _ := busy(t, e)
			return env, nil
		}},
		{name: "busy port of some target", want: []string{"warning machine.ports busy"}, code: 11, breaks: func(t *testing.T,
			e *labEnv,
		) ([]string, []string) {
			env, _ := busy(t, e)
			return env, nil
		}},
		{name: "runtime directory for all", want: []string{"error machine.directories runtime"}, code: 1, breaks: func(t *testing.T,
			_ *labEnv,
		) ([]string, []string) {
			dir := filepath.Join(t.TempDir(), "open")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			return []string{"BASTION_RUNTIME_DIR=" + dir}, nil
		}},
	}
}

func illSettings() []ill {
	file := func(text string, more ...string) func(t *testing.T, e *labEnv) ([]string, []string) {
		return func(t *testing.T, e *labEnv) ([]string, []string) {
			path := filepath.Join(e.value("HOME"), "bastion.yaml")
			writeFile(t, path, text)
			return append([]string{"BASTION_CONFIG=" + path}, more...), nil
		}
	}
	// profiles are AWS's configuration with another profile, and the lab's keys for it.
	profiles := func(section string) func(t *testing.T, e *labEnv) ([]string, []string) {
		return func(t *testing.T, e *labEnv) ([]string, []string) {
			config, keys := filepath.Join(t.TempDir(), "config"), filepath.Join(t.TempDir(), "credentials")
			writeFile(t, config, "[profile other]\nregion = "+e.Region()+"\n"+section)
			have, err := os.ReadFile(e.value("AWS_SHARED_CREDENTIALS_FILE"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(section, "sso_start_url") {
				writeFile(t, keys, strings.ReplaceAll(string(have), "[lab]", "[other]"))
			}
			return []string{"AWS_PROFILE=other", "AWS_CONFIG_FILE=" + config, "AWS_SHARED_CREDENTIALS_FILE=" + keys}, nil
		}
	}
	return []ill{
		{name: "typo in the file", want: []string{"error config.file invalid"}, code: 2, breaks: file("regoin: x\n")},
		{name: "not a target", target: "rds:::", want: []string{"error config.target invalid"}, code: 2},
		{name: "no region", want: []string{"error config.region missing"}, code: 2, breaks: func(t *testing.T, e *labEnv) ([]string, []string) {
			path := filepath.Join(t.TempDir(), "config")
			writeFile(t, path, "[profile lab]\n")
			return []string{"AWS_CONFIG_FILE=" + path, "AWS_REGION=", "AWS_DEFAULT_REGION="}, nil
		}},
		{name: "no such profile", want: []string{"error config.profile unusable"}, code: 4, breaks: with("AWS_PROFILE=nobodys")},
		{name: "half a key", want: []string{"error config.variables incomplete"}, code: 4, breaks: with("AWS_PROFILE=",
			"AWS_ACCESS_KEY_ID=AKIAHALF")},
		{name: "variables hide the profile", want: []string{"warning config.variables hides"}, code: 11, breaks: func(t *testing.T,
			e *labEnv,
		) ([]string, []string) {
			keys, err := os.ReadFile(e.value("AWS_SHARED_CREDENTIALS_FILE"))
			if err != nil {
				t.Fatal(err)
			}
			var env []string
			for line := range strings.Lines(string(keys)) {
				name, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
				if ok && len(env) < 2 {
					env = append(env, strings.ToUpper(name)+"="+value)
				}
			}
			return env, nil
		}},
		{
			name: "old form of single sign-on", code: 4, want: []string{"warning config.login legacy", "error credentials.found unusable"},
			breaks: profiles("sso_start_url = https://corp.example/start\nsso_region = eu-central-1\nsso_account_id = " +
				"000000000000\nsso_role_name = dev\n"),
		},
		{
			name: "another account's profile", want: []string{"error credentials.account profile"}, code: 4,
			breaks: profiles("sso_account_id = 111122223333\n"),
		},
		{name: "CA bundle is gone", want: []string{"error config.ca unreadable"}, code: 2, breaks: with("BASTION_TLS_CA=/nonexistent/ca.pem")},
		{name: "CA unknown", target: "rds:orders", want: []string{"warning config.ca unknown"}, code: 11, breaks: with("BASTION_TLS_CA=")},
		{
			name: "another account's cluster", want: []string{"error credentials.account settings"}, code: 4,
			breaks: given("--cluster", "arn:aws:ecs:eu-central-1:111122223333:cluster/bastion"),
		},
		{
			name: "another region's task definition", want: []string{"error credentials.account region"}, code: 2,
			breaks: given("--task-definition", "arn:aws:ecs:us-east-1:"+lab.Account+":task-definition/bastion"),
		},
	}
}

func illNetworks() []ill {
	// endpoint leads AWS's calls to a server in the lab's place.
	endpoint := func(secure bool, handle func(w http.ResponseWriter, r *http.Request) bool) func(t *testing.T, e *labEnv) ([]string,
		[]string) {
		return func(t *testing.T, e *labEnv) ([]string, []string) {
			return []string{"AWS_ENDPOINT_URL=" + e.front(t, secure, handle).URL}, nil
		}
	}
	isUpgrade := func(r *http.Request) bool { return r.Header.Get("Upgrade") != "" }
	page := func(w http.ResponseWriter, status int) bool {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(html))
		return true
	}
	hijack := func(w http.ResponseWriter) bool {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
		return true
	}
	// proxy is a proxy that answers CONNECT with a status.
	proxy := func(status int) func(t *testing.T, e *labEnv) ([]string, []string) {
		return func(t *testing.T, e *labEnv) ([]string, []string) {
			s := e.front(t, false, func(w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(status)
				return true
			})
			return []string{"AWS_ENDPOINT_URL=https://aws.example", "HTTPS_PROXY=" + s.URL}, nil
		}
	}
	return []ill{
		{name: "unknown name", want: []string{"error network.dns unknown"}, code: 6, breaks: with("AWS_ENDPOINT_URL=http://aws.nowhere.invalid")},
		{name: "closed port", want: []string{"error network.tcp closed"}, code: 6, breaks: func(t *testing.T, _ *labEnv) ([]string, []string) {
			return []string{"AWS_ENDPOINT_URL=http://" + rig.FreeAddr(t)}, nil
		}},
		{name: "interception", want: []string{"error network.tls intercepted"}, code: 6, breaks: endpoint(true, nil)},
		{name: "no TLS there", want: []string{"error network.tls failed"}, code: 6, breaks: func(t *testing.T, e *labEnv) ([]string, []string) {
			return []string{"AWS_ENDPOINT_URL=" + strings.Replace(e.URL(), "http:", "https:", 1)}, nil
		}},
		{name: "websockets are cut", want: []string{"error network.websocket cut"}, code: 6, breaks: endpoint(false,
			func(w http.ResponseWriter, r *http.Request) bool {
				return isUpgrade(r) && hijack(w)
			})},
		{name: "websockets are answered by a page", want: []string{"error network.websocket foreign"}, code: 6, breaks: endpoint(false,
			func(w http.ResponseWriter, r *http.Request) bool {
				return isUpgrade(r) && page(w, 200)
			})},
		{name: "everything is answered by a page", want: []string{"error network.websocket foreign"}, code: 6, breaks: endpoint(false,
			func(w http.ResponseWriter, _ *http.Request) bool {
				return page(w, 200)
			})},
		{name: "STS is answered by a page", want: []string{"error credentials.valid foreign"}, code: 4, breaks: endpoint(false,
			func(w http.ResponseWriter, r *http.Request) bool {
				return !isUpgrade(r) && page(w, 403)
			})},
		{name: "nothing is answered", want: []string{"error network.websocket cut"}, code: 6, breaks: func(t *testing.T,
			_ *labEnv,
		) ([]string, []string) {
			l, err := net.Listen("tcp", "127.0.0.1:0") // and nobody accepts
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return []string{"AWS_ENDPOINT_URL=http://" + l.Addr().String()}, nil
		}},
		{name: "proxy refuses", want: []string{"error network.proxy refuses"}, code: 6, breaks: proxy(403)},
		{name: "proxy wants a password", want: []string{"error network.proxy password"}, code: 6, breaks: proxy(407)},
		{name: "proxy is gone", want: []string{"error network.proxy unreached"}, code: 6, breaks: func(t *testing.T, _ *labEnv) ([]string,
			[]string,
		) {
			return []string{"AWS_ENDPOINT_URL=https://aws.example", "HTTPS_PROXY=http://" + rig.FreeAddr(t)}, nil
		}},
		{
			name: "clock is off", want: []string{"warning machine.clock off"}, code: 11,
			config: func(c *lab.Config) { c.Now = func() time.Time { return time.Now().Add(3 * time.Minute) } },
		},
		{
			name: "clock is far off", want: []string{"error machine.clock far"}, code: 4,
			config: func(c *lab.Config) { c.Now = func() time.Time { return time.Now().Add(-time.Hour) } },
		},
	}
}

func illCredentials() []ill {
	return []ill{
		{name: "no credentials", want: []string{"error credentials.found none"}, code: 4, breaks: func(t *testing.T,
			_ *labEnv,
		) ([]string, []string) {
			none := filepath.Join(t.TempDir(), "none")
			return []string{"AWS_PROFILE=", "AWS_CONFIG_FILE=" + none, "AWS_SHARED_CREDENTIALS_FILE=" + none}, nil
		}},
		{name: "expired", want: []string{"error credentials.valid expired"}, code: 4, breaks: func(_ *testing.T, e *labEnv) ([]string, []string) {
			return e.as("late", lab.IdentityConfig{Expires: time.Now().Add(-time.Minute)}), nil
		}},
		{name: "unknown key", want: []string{"error credentials.valid refused"}, code: 4, breaks: with("AWS_PROFILE=",
			"AWS_ACCESS_KEY_ID=AKIANOBODYSKEY000000", "AWS_SECRET_ACCESS_KEY=x")},
		{name: "credential_process hangs", want: []string{"error credentials.found unanswered"}, code: 9, breaks: func(t *testing.T,
			e *labEnv,
		) ([]string, []string) {
			path := filepath.Join(t.TempDir(), "config")
			writeFile(t, path, "[profile other]\nregion = "+e.Region()+"\ncredential_process = sleep 30 2>/dev/null\n")
			return []string{"AWS_PROFILE=other", "AWS_CONFIG_FILE=" + path}, nil
		}},
		{name: "credential_process fails", want: []string{"error credentials.found unusable"}, code: 4, breaks: func(t *testing.T,
			e *labEnv,
		) ([]string, []string) {
			path := filepath.Join(t.TempDir(), "config")
			writeFile(t, path, "[profile other]\nregion = "+e.Region()+"\ncredential_process = false\n")
			return []string{"AWS_PROFILE=other", "AWS_CONFIG_FILE=" + path}, nil
		}},
	}
}
