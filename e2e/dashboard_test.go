//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/creack/pty"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

var dashboardPictures = flag.String(
	"dashboard-pictures",
	"",
	"write pictures of the dashboard into this directory; takes two minutes more",
)

// dashboardLink runs `bastion dashboard` with something in xdg-open's place, and returns what it prints and what it
// would have opened.
func (w *world) dashboardLink() (url, page string) {
	w.t.Helper()
	dir := w.t.TempDir()
	args := filepath.Join(dir, "args")
	script := "#!/bin/sh\nprintf '%s\\n' \"$@\" > " + args + ".new && mv " + args + ".new " + args + "\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(script), 0o700); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command("env", "DISPLAY=:0", "PATH="+dir+":"+os.Getenv("PATH"), filepath.Join(bin, "bastion"), "dashboard")
	p := w.startCmd(cmd)
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if code, err := p.Wait(ctx); err != nil || code != 0 {
		w.t.Fatalf("bastion dashboard: exit code %d, %v\n%s\n%s", code, err, p.Output(), w.agentLog())
	}
	w.eventually("the browser is started", func() bool {
		_, err := os.Stat(args)
		return err == nil
	})
	data, err := os.ReadFile(args)
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(p.Stdout()[0]), strings.TrimSpace(string(data))
}

// Chromium on the dashboard of a real agent: it opens a forward, sees its bytes move, and closes it.
func TestDashboard(t *testing.T) {
	rig.Need(t, "chromium")
	w := newAgentWorld(t, func(c *lab.Config) {
		if *dashboardPictures != "" {
			c.Postgres = "" // as there is
		}
	})
	url, page := w.dashboardLink()
	address, token, ok := strings.Cut(url, "/#")
	if !ok || len(token) != 43 || !strings.HasPrefix(address, "http://127.0.0.1:") {
		t.Fatalf("the address is %q", url)
	}
	// The browser's command line says nothing to other users.
	if info, err := os.Stat(page); err != nil || info.Mode().Perm() != 0o600 || strings.Contains(page, token) {
		t.Fatalf("the browser is given %q: %v, %v", page, info, err)
	}

	_, p := rig.StartBrowser(t)
	p.Look(1280, 900, "light")
	p.Do(chromedp.Navigate("file://" + page))
	p.Until(`document.getElementById('live')?.textContent === 'Live'`)
	if got := rig.Eval[string](p, "location.href"); got != address+"/" {
		t.Errorf("the address has become %q", got)
	}
	if _, err := os.Stat(page); err == nil {
		t.Error("the page that led there is still there")
	}

	p.Do(
		chromedp.SendKeys(chromedp.CSS("#open-target"), w.far.Addr()),
		chromedp.SendKeys(chromedp.CSS("#open-listen"), ":"),
		chromedp.Click(chromedp.CSS("#open-submit")),
	)
	p.Until(`document.querySelector('#forwards .pill')?.textContent === 'ready'`)
	listen := rig.Eval[string](p, `document.querySelector('#forwards .way code').textContent`)
	w.transfer(listen, 3_000_000)
	p.Until(`document.querySelector('#forwards dl').textContent.includes('3.0 MB down')`)
	p.Until(`document.querySelectorAll('#audit tr').length === 1`)
	p.Until(`document.querySelector('#links tbody tr .pill')?.textContent === 'up'`)
	p.Until(`document.querySelector('#bastions tr')?.textContent.includes('≈ $0.00')`)
	if rotates := rig.Eval[string](
		p,
		`document.querySelector('#bastions tr').lastElementChild.textContent`,
	); !strings.HasPrefix(
		rotates,
		"within 4",
	) {
		t.Errorf("the sessions rotate %q", rotates)
	}
	p.Do(chromedp.Click(chromedp.CSS(`#forwards button.copy`)), chromedp.Click(chromedp.CSS("#open-target")))
	p.Until(`document.getElementById('say').textContent.startsWith('Copied: Address')`)
	p.Paste()
	p.Until(fmt.Sprintf(`document.getElementById('open-target').value === %q`, listen))
	rig.Eval[chromedp.Void](p, `document.getElementById('open').reset()`)
	if *dashboardPictures != "" {
		w.pose(p)
	}

	// What cannot be done is said with what to do.
	p.Do(chromedp.SendKeys(chromedp.CSS("#open-target"), "rds:nothing"), chromedp.Click(chromedp.CSS("#open-submit")))
	p.Until(
		`document.getElementById('open-status').dataset.kind === 'bad' && document.getElementById('open-status').textContent.includes(' – ')`,
	)

	name := rig.Eval[string](p, `document.querySelector('#forwards h3').textContent`)
	p.Do(chromedp.Click(chromedp.CSS(fmt.Sprintf(`button[aria-label="Close forward %s"]`, name))))
	p.Until(fmt.Sprintf(`[...document.querySelectorAll('#forwards h3')].every((h) => h.textContent !== %q)`, name))
	w.eventually("the forward is closed", func() bool {
		for _, f := range w.agentState().Forwards {
			if f.Name == name {
				return false
			}
		}
		return !listening(t, listen)
	})

	// Nobody writes down what lets in.
	cookies := rig.Eval[string](p, `sessionStorage.getItem('bastion-key')`)
	for _, secret := range []string{token, cookies} {
		for _, dir := range []string{w.stateDir(), w.runtimeDir()} {
			w.nowhere(dir, secret)
		}
	}
	w.stopAgent()
	if listening(t, strings.TrimPrefix(address, "http://")) {
		t.Error("the dashboard outlives the agent")
	}
	p.Until(`document.getElementById('live').textContent === 'No agent' && !document.getElementById('gone').hidden`)
}

// nowhere looks for a secret in the files of a directory.
func (w *world) nowhere(dir, secret string) {
	w.t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(secret)) {
			w.t.Errorf("a secret is in %s", path)
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}

// transfer downloads n bytes through a forward to the far end.
func (w *world) transfer(listen string, n int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	conn := dial(ctx, w.t, listen)
	defer func() { _ = conn.Close() }()
	if err := rig.Download(ctx, conn, n); err != nil {
		w.t.Fatal(err)
	}
}

// pose makes pictures for the documentation: several forwards, one of them at work for a while over a distance.
func (w *world) pose(p *rig.Tab) {
	w.t.Helper()
	w.faults(gateway.Faults{DelayMS: 20})
	defer w.faults(gateway.Faults{})
	listen := rig.Eval[string](p, `document.querySelector('#forwards .way code').textContent`)
	p.Do(chromedp.SendKeys(chromedp.CSS("#open-target"), "rds"), chromedp.SendKeys(chromedp.CSS("#open-listen"), ":"),
		chromedp.Click(chromedp.CSS("#open-submit")))
	p.Until(`document.querySelectorAll('#forwards .pill[data-kind=good]').length === 2`)
	for i := range 8 {
		w.transfer(listen, 9_000_000+int64(i%3)*6_000_000)
		select {
		case <-time.After(time.Duration(2+3*(i%3)) * time.Second):
		case <-w.t.Context().Done():
		}
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	conn := dial(ctx, w.t, listen)
	var busy sync.WaitGroup
	busy.Go(func() { _ = rig.Download(ctx, conn, 1<<30) }) // it is cut short
	defer func() {
		cancel()
		_ = conn.Close()
		busy.Wait()
	}()
	for range 5 {
		received := rig.Eval[string](p, `document.querySelector('#forwards dl').textContent`)
		p.Until(fmt.Sprintf(`document.querySelector('#forwards dl').textContent !== %q`, received))
	}
	rig.Eval[chromedp.Void](p, `document.activeElement.blur()`)
	for _, scheme := range []string{"light", "dark"} {
		p.Look(1280, 900, scheme)
		name := filepath.Join(*dashboardPictures, "dashboard-"+scheme+".png")
		if err := os.WriteFile(name, p.Screenshot(), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	p.Look(1280, 900, "light")
}

// screen is a terminal of 200 columns and 50 rows.
type screen struct {
	mu   sync.Mutex
	said bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Write(p)
}

func (s *screen) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.said.String(), text)
}

// bastion top shows a forward in a terminal, and stops it by a key.
func TestTop(t *testing.T) {
	w := newAgentWorld(t, nil)
	// Without an agent it says so and starts none.
	code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), "top")
	if code != 0 || !strings.Contains(out, "No agent is running") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if st := w.agentState(); st.PID != 0 {
		t.Error("it has started an agent")
	}
	f := w.detach(w.far.Addr(), ":")[0]
	w.transfer(f.Listen, 2_000_000)

	code, out = w.run(time.Minute, filepath.Join(bin, "bastion"), "top")
	for _, want := range []string{f.Name, f.Listen, "2.0 MB", "RUNNING", "about $0.00"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("no %q: exit code %d\n%s", want, code, out)
		}
	}
	code, out = w.run(time.Minute, filepath.Join(bin, "bastion"), "top", "-o", "json")
	var snapshot struct {
		State    api.State
		Accounts []api.Account
	}
	if err := json.Unmarshal([]byte(out), &snapshot); err != nil || code != 0 || len(snapshot.State.Forwards) != 1 ||
		len(snapshot.Accounts) != 1 || snapshot.Accounts[0].Bastions[0].Cost == nil {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}

	cmd := exec.Command(filepath.Join(bin, "bastion"), "top")
	cmd.Env = append(append(os.Environ(), w.env...), "TERM=xterm-256color")
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	var s screen
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&s, file) // it ends with the program
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // if it has not ended
		_ = file.Close()
		<-read
	})
	w.eventually("the forward is shown", func() bool { return s.has("> " + f.Name) })
	w.eventually("the bastion is shown", func() bool { return s.has("about $0.00") })
	if _, err := file.WriteString("s"); err != nil {
		t.Fatal(err)
	}
	w.eventually(
		"the forward is stopped",
		func() bool { return len(w.agentState().Forwards) == 0 && s.has(f.Name+" is stopped") },
	)
	if _, err := file.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("q does not end it")
	}
}

// The metrics are on the agent's socket, and on a port for those who have the token.
func TestMetrics(t *testing.T) {
	w := newAgentWorld(t, nil)
	addr := rig.FreeAddr(t)
	const secret = "a-token-of-the-metrics"
	file := filepath.Join(w.home, "metrics.token")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.env = append(w.env, "BASTION_METRICS_LISTEN="+addr, "BASTION_METRICS_TOKEN_FILE="+file)
	f := w.detach(w.far.Addr(), ":")[0]
	w.transfer(f.Listen, 1_000_000)
	want := fmt.Sprintf("bastion_forward_bytes_total{direction=\"down\",forward=%q} 1", f.Name)

	get := func(dial func(context.Context, string, string) (net.Conn, error), url, token string) (int, string) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(data)
	}
	overSocket := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.socket())
	}
	for _, tt := range []struct {
		name, url, token string
		dial             func(context.Context, string, string) (net.Conn, error)
		code             int
		has              string
	}{
		{"socket", "http://bastion/metrics", "", overSocket, 200, want},
		{"socket, health", "http://bastion/readyz", "", overSocket, 200, "ok"},
		{"port", "http://" + addr + "/metrics", secret, nil, 200, want},
		{"port without the token", "http://" + addr + "/metrics", "", nil, 401, "token"},
		{"port with a wrong token", "http://" + addr + "/metrics", "x" + secret, nil, 401, "token"},
		{"port, health", "http://" + addr + "/livez", "", nil, 200, "ok"},
		{"port, the control API", "http://" + addr + "/v1/state", secret, nil, 404, ""},
	} {
		if code, out := get(
			tt.dial,
			tt.url,
			tt.token,
		); code != tt.code || !strings.Contains(out, tt.has) ||
			code != 200 && strings.Contains(out, want) {
			t.Errorf("%s: %d %s", tt.name, code, out)
		}
	}
	w.nowhere(w.stateDir(), secret)
}
