package dashboard

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
)

var screenshots = flag.String("screenshots", "", "write pictures of the page into this directory")

// enter opens the dashboard by a link and waits until it is live.
func enter(t *testing.T, s *Server, p *rig.Tab) {
	t.Helper()
	link, err := s.Link(
		api.DashboardRequest{Targets: []api.NamedTarget{{Name: "reports", Spec: "rds:reports", LocalPort: 15432}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	p.Do(chromedp.Navigate(link.URL))
	p.Until(isLive)
}

const isLive = `document.getElementById('live').textContent === 'Live' && document.querySelector('#bastions tr')`

// card is the card of a forward.
func card(name string) string {
	return fmt.Sprintf(
		`[...document.querySelectorAll('#forwards > li')].find((c) => c.querySelector('h3').textContent === %q)`,
		name,
	)
}

func TestBrowser(t *testing.T) {
	f := newFake()
	s := serve(t, f, Options{})
	_, p := rig.StartBrowser(t)
	enter(t, s, p)

	// The token is neither in the address nor in the history, and the page has asked nobody else for anything.
	if got := rig.Eval[string](p, "location.href"); got != "http://"+s.Addr()+"/" {
		t.Errorf("the address is %q", got)
	}
	steps, err := historyOf(p)
	if err != nil || strings.Contains(steps, "#") {
		t.Errorf("the history is %q, %v", steps, err)
	}
	loaded := rig.Eval[string](p, `performance.getEntriesByType('resource').map((e) => e.name).join(' ')`)
	for url := range strings.FieldsSeq(loaded) {
		if !strings.HasPrefix(url, "http://"+s.Addr()+"/") {
			t.Errorf("the page has loaded %s", url)
		}
	}
	if cookie := rig.Eval[string](p, "document.cookie"); cookie != "" {
		t.Errorf("scripts see the cookie %q", cookie)
	}

	// A forward is opened by clicking; its bytes move.
	p.Do(
		chromedp.Click(chromedp.CSS("#open-target")),
		chromedp.SendKeys(chromedp.CSS("#open-target"), "wiki.corp.internal:443"),
		chromedp.Click(chromedp.CSS("#open-submit")),
	)
	p.Until(card("wiki.corp.internal:443"))
	p.Until(`document.getElementById('say').textContent.startsWith('Open: wiki.corp.internal:443')`)
	total := card("wiki.corp.internal:443") + `.querySelector('dl').textContent`
	p.Until(total + `.includes('0 B down')`)
	f.transfer("wiki.corp.internal:443", 3_500_000)
	p.Until(total + `.includes('3.5 MB down')`)

	// The button copies the text that it names.
	p.Do(chromedp.Click(chromedp.CSS(`button[aria-label="Copy JDBC of orders"]`)))
	p.Until(`document.getElementById('say').textContent === 'Copied: JDBC of orders'`)
	p.Do(chromedp.Click(chromedp.CSS("#open-target")))
	p.Paste()
	p.Until(`document.getElementById('open-target').value === 'jdbc:postgresql://127.0.0.1:5432/?sslmode=require'`)

	// A failure says what to do.
	f.mu.Lock()
	f.fail = errTest
	f.mu.Unlock()
	p.Do(chromedp.Click(chromedp.CSS("#open-submit")))
	p.Until(`document.getElementById('open-status').textContent === 'it broke – mend it'`)

	// A forward with connections is closed after a question, which Escape answers with no.
	p.Do(chromedp.Click(chromedp.CSS(`button[aria-label="Close forward orders"]`)))
	p.Until(`document.getElementById('ask').open`)
	p.Key(kb.Escape, false)
	p.Until(`!document.getElementById('ask').open`)
	if !hasForward(f.State(), "orders") {
		t.Error("closed, though the answer was no")
	}
	p.Do(chromedp.Click(chromedp.CSS(`button[aria-label="Close forward orders"]`)))
	p.Until(`document.getElementById('ask').open`) // where the button is then, it stays
	p.Do(chromedp.Click(chromedp.CSS("#ask-yes")))
	p.Until("!" + card("orders"))
	if hasForward(f.State(), "orders") {
		t.Error("not closed")
	}
}

// All can be done without a mouse.
func TestKeyboard(t *testing.T) {
	f := newFake()
	s := serve(t, f, Options{})
	_, p := rig.StartBrowser(t)
	enter(t, s, p)
	tab := func(to string) {
		t.Helper()
		for range 80 {
			p.Key(kb.Tab, false)
			if rig.Eval[bool](p, "document.activeElement.matches("+fmt.Sprintf("%q", to)+")") {
				if !rig.Eval[bool](p, `getComputedStyle(document.activeElement).outlineStyle !== 'none'`) {
					t.Errorf("the focus is not seen on %s", to)
				}
				return
			}
		}
		t.Fatalf("no Tab leads to %s", to)
	}
	tab("#open-target")
	p.Do(chromedp.KeyEvent("reports"))
	p.Key(kb.Enter, false)
	p.Until(card("reports"))
	p.Until(`document.activeElement.id === 'open-target'`) // ready for the next
	f.mu.Lock()
	asked := f.requests[0].Forwards[0]
	f.mu.Unlock()
	if !reflect.DeepEqual(asked, api.ForwardRequest{Kind: api.KindTCP, Name: "reports", Target: "rds:reports", Listen: "15432"}) {
		t.Errorf("asked for %+v", asked)
	}
	tab(`button[aria-label="Copy Address of reports"]`)
	p.Key(kb.Enter, false)
	p.Until(`document.getElementById('say').textContent === 'Copied: Address of reports'`)
	tab("details.clients summary")
	p.Key(kb.Enter, false)
	p.Until(`document.activeElement.closest('details').open`)
	tab(".scroll") // arrow keys scroll wide content
	p.Do(chromedp.Focus(chromedp.CSS("#open-target")))
	tab(`button[aria-label="Close forward sessions"]`)
	p.Key(kb.Enter, false)
	p.Until(`document.getElementById('ask').open && document.activeElement.id === 'ask-no'`)
	tab("#ask-yes")
	p.Key(kb.Enter, false)
	p.Until("!" + card("sessions"))
	p.Until(`document.activeElement.id === 'forwards-title'`) // the focused element is gone
	p.Key(kb.Tab, true)
	tab("#logout")
	p.Key(kb.Enter, false)
	p.Until(`!document.getElementById('out').hidden && document.activeElement.id === 'out-title'`)
}

// Every control has a name, and every figure a text.
func TestNames(t *testing.T) {
	s := serve(t, newFake(), Options{})
	_, p := rig.StartBrowser(t)
	enter(t, s, p)
	p.Until(`document.querySelector('.chart svg')?.getAttribute('aria-label')?.includes('down ')`)
	nameless := rig.Eval[string](
		p,
		`[...document.querySelectorAll('button, input, select, a, summary, [role=img], [role=region], dialog')]
		.filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length || e.textContent.trim()))
		.map((e) => e.outerHTML).join('\n')`,
	)
	if nameless != "" {
		t.Errorf("without a name:\n%s", nameless)
	}
	headless := rig.Eval[int](
		p,
		`[...document.querySelectorAll('table')].filter((t) => !t.tHead || [...t.querySelectorAll('th')].some((h) => !h.scope)).length`,
	)
	if headless != 0 {
		t.Errorf("%d tables without headings", headless)
	}
}

// Text from elsewhere can neither reorder nor hide what the page says, and stays text.
func TestHostileText(t *testing.T) {
	f := newFake()
	f.forwards = append(f.forwards, f.forward("a\u202eb", "<b>x</b>\u200b", "db\u2066\u0085\U000e0041.internal:5432", "127.0.0.1:1", ""))
	s := serve(t, f, Options{})
	_, p := rig.StartBrowser(t)
	enter(t, s, p)
	p.Until(card("a?b"))
	bad := rig.Eval[string](p, `[...document.querySelectorAll('body *')].flatMap((e) => [...e.attributes].map((a) => a.value)
		.concat(e.children.length ? [] : [e.textContent])).filter((text) => /[\p{Cf}\u0085]/u.test(text)).join('\n')`)
	if bad != "" {
		t.Errorf("on the page: %q", bad)
	}
	if n := rig.Eval[int](p, `document.querySelectorAll('#forwards b').length`); n != 0 {
		t.Error("text became an element")
	}
}

// Many tabs share one stream, because a browser opens six connections to one place and no more.
func TestTabs(t *testing.T) {
	s := serve(t, newFake(), Options{})
	b, p := rig.StartBrowser(t)
	enter(t, s, p)
	tabs := []*rig.Tab{p}
	for range 7 {
		other := b.NewTab()
		other.Do(chromedp.Navigate("http://" + s.Addr() + "/")) // it gets the session's key from the others
		other.Until(isLive)
		tabs = append(tabs, other)
	}
	if n := len(s.streams); n != 1 {
		t.Errorf("%d streams", n)
	}
	// Another takes over when the tab that reads goes.
	tabs[0].Do(chromedp.Navigate("about:blank"))
	for _, p := range tabs[1:] {
		rig.Eval[chromedp.Void](p, `globalThis.was = document.getElementById('bastions-note').textContent, undefined`)
		p.Until(isLive + ` && document.getElementById('bastions-note').textContent !== was`)
	}
	if n := len(s.streams); n != 1 {
		t.Errorf("%d streams", n)
	}
	tabs[1].Do(chromedp.Click(chromedp.CSS("#logout")))
	for _, p := range tabs[1:] {
		p.Until(`!document.getElementById('out').hidden`)
	}
}

// A page of another port is of the same site: the browser sends it the cookies. It cannot use them, nor read anything.
func TestForeignPage(t *testing.T) {
	f := newFake()
	s := serve(t, f, Options{})
	_, p := rig.StartBrowser(t)
	enter(t, s, p)
	got := make(chan string, 1)
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case got <- r.Header.Get("Cookie"):
		default:
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html><title>evil</title><iframe></iframe>"))
	}))
	defer evil.Close()
	p.Do(chromedp.Navigate(evil.URL))
	cookie := <-got
	if !strings.Contains(cookie, "bastion-") {
		t.Fatalf("the browser sends %q: the test shows nothing", cookie)
	}
	// Whoever serves that page has the cookie now. It is not enough.
	for _, path := range []string{"/api/events", "/api/close"} {
		b := &browser{t: t, addr: s.Addr()}
		method := http.MethodGet
		if path == "/api/close" {
			method = http.MethodPost
		}
		resp, data := b.request(method, path, `{"name":"orders"}`, func(r *http.Request) { r.Header.Set("Cookie", cookie) })
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s with the cookie alone: %s %s", path, resp.Status, data)
		}
	}
	base := "http://" + s.Addr()
	for _, attack := range []string{
		`fetch('` + base + `/api/close', {method: 'POST', credentials: 'include', body: '{"name":"orders"}', headers: {'Content-Type': 'application/json'}})`,
		`fetch('` + base + `/api/close', {method: 'POST', credentials: 'include', mode: 'no-cors', body: '{"name":"orders"}'}).then((r) => r.text())`,
		`fetch('` + base + `/api/events', {credentials: 'include'}).then((r) => r.text())`,
		`fetch('` + base + `/app.js').then((r) => r.text())`,
		`import('` + base + `/app.js')`,
	} {
		if out := rig.Eval[string](
			p,
			attack+`.then((v) => 'got ' + (typeof v === 'string' ? v : 'something'), () => 'nothing')`,
		); out != "nothing" &&
			out != "got " {
			t.Errorf("%s: %s", attack, out)
		}
	}
	rig.Eval[chromedp.Void](
		p,
		`new Promise((done) => { const f = document.querySelector('iframe'); f.onload = done; f.src = '`+base+`/'; }).then(() => undefined)`,
	)
	if rig.Eval[bool](p, `(() => { try { return frames[0].document.title === 'bastion'; } catch { return false; } })()`) {
		t.Error("the page is in a frame")
	}
	if !hasForward(f.State(), "orders") {
		t.Fatal("a foreign page has closed a forward")
	}
}

// The page fits on narrow screens, in both schemes; -screenshots keeps pictures.
func TestLooks(t *testing.T) {
	f := newFake()
	s := serve(t, f, Options{})
	_, p := rig.StartBrowser(t)
	p.Look(1280, 900, "light")
	enter(t, s, p)
	if *screenshots != "" {
		<-time.After(12 * time.Second) // for the curves
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 400, 320} {
			p.Look(width, 900, scheme)
			p.Until(isLive)
			if over := rig.Eval[string](
				p,
				`document.documentElement.scrollWidth > innerWidth && [...document.querySelectorAll('main *')]
				.filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll')).map((e) => e.tagName + '.' + e.className).join(' ')
				|| ''`,
			); over != "" {
				t.Errorf("%d %s: too wide: %s", width, scheme, over)
			}
			if *screenshots != "" {
				name := fmt.Sprintf("dashboard-%s-%d.png", scheme, width)
				if err := os.WriteFile(filepath.Join(*screenshots, name), p.Screenshot(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		if faint := rig.Eval[string](p, contrast); faint != "" {
			t.Errorf("%s: too little contrast:\n%s", scheme, faint)
		}
	}
}

// contrast lists the texts whose contrast with their background is less than WCAG's 4.5.
const contrast = `(() => {
	const parse = (c) => c.match(/[\d.]+/g).map(Number);
	const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
	const found = new Set();
	for (const e of document.querySelectorAll('body *')) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility({ opacityProperty: true })) continue;
		if (e.closest('.skip, option, dialog, noscript')) continue;
		const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) found.add(e.tagName + '.' + e.className + ' ' + ratio.toFixed(2));
	}
	return [...found].join('\n');
})()`

func TestNothingThere(t *testing.T) {
	f := newFake()
	f.empty = true
	s := serve(t, f, Options{})
	_, p := rig.StartBrowser(t)
	link, err := s.Link(api.DashboardRequest{})
	if err != nil {
		t.Fatal(err)
	}
	p.Do(chromedp.Navigate(link.URL))
	p.Until(`['forwards-empty', 'links-empty', 'audit-empty'].every((id) => !document.getElementById(id).hidden)`)
	p.Until(`document.getElementById('bastions-note').textContent.includes('there is no link yet')`)
	// A link that was used opens nothing.
	p.Do(chromedp.Navigate("about:blank"), chromedp.Navigate(link.URL))
	p.Until(`document.getElementById('out-why').textContent.includes('has been used')`)
	// Without the agent the page says so.
	other, err := s.Link(api.DashboardRequest{})
	if err != nil {
		t.Fatal(err)
	}
	p.Do(chromedp.Navigate("about:blank"), chromedp.Navigate(other.URL))
	p.Until(`document.getElementById('live').textContent === 'Live'`)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	p.Until(isGone)
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Error("it still listens")
	}
}

// isGone is how the page looks without the agent: it says what to type, and nothing can be clicked.
const isGone = `document.getElementById('live').textContent === 'No agent' &&
	!document.getElementById('gone').hidden && document.getElementById('gone').textContent.includes('bastion dashboard') &&
	document.getElementById('content').inert && document.getElementById('content').classList.contains('stale') &&
	document.getElementById('logout').hidden && document.getElementById('out').hidden`

// With 40 forwards the page begins with the faulty ones, everything is a click away, and the filter finds the rest.
func TestManyForwards(t *testing.T) {
	f := newFake()
	f.mu.Lock()
	for i := range 40 {
		f.forwards = append(f.forwards, f.forward(fmt.Sprintf("db-%02d", i), "rds:x", "x.corp:5432", fmt.Sprintf("127.0.0.1:%d", 20000+i), "postgres"))
	}
	bad := &f.forwards[len(f.forwards)-1]
	bad.State, bad.Error, bad.Next = api.ForwardFailed, "AccessDenied: no", "ask for more"
	f.mu.Unlock()
	s := serve(t, f, Options{})
	_, p := rig.StartBrowser(t)
	enter(t, s, p)
	const inSight = `((e) => { const r = e.getBoundingClientRect(); return r.top >= 0 && r.bottom <= innerHeight; })`
	const wrong = `[...document.querySelectorAll('#wrong li')].find((l) => l.textContent.includes('db-39'))`
	p.Until(wrong)
	for _, want := range []string{"failed", "AccessDenied: no", "ask for more"} {
		p.Until(fmt.Sprintf(`%s.textContent.includes(%q)`, wrong, want))
	}
	p.Until(inSight + `(` + wrong + `)`)
	// A fault leads to its card.
	rig.Eval[bool](p, wrong+`.querySelector('button').click() === undefined`)
	p.Until(inSight + `(` + card("db-39") + `.querySelector('h3')) && document.activeElement === ` + card("db-39") + `.querySelector('h3')`)
	// The links are a click away, of the sections' list and of the skip links.
	for _, of := range []string{`nav.jump a[href="#links-title"]`, `a.skip[href="#links-title"]`} {
		rig.Eval[bool](p, `scrollTo(0, 0) === undefined`)
		rig.Eval[bool](p, fmt.Sprintf(`document.querySelector(%q).click() === undefined`, of))
		p.Until(inSight + `(document.getElementById('links-title'))`)
	}
	// The filter.
	p.Do(chromedp.Click(chromedp.CSS("#filter")), chromedp.SendKeys(chromedp.CSS("#filter"), "DB-0 postgres"))
	p.Until(`document.querySelectorAll('#forwards > li').length === 10 && document.getElementById('filter-sum').textContent.startsWith('10 of ')`)
	// What it hides is shown again when it is gone to.
	rig.Eval[bool](p, wrong+`.querySelector('button').click() === undefined`)
	p.Until(`document.getElementById('filter').value === '' && document.activeElement === ` + card("db-39") + `.querySelector('h3')`)

	// The end of the agent has one look, also where its word does not arrive.
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	p.Until(isGone)
}

func historyOf(p *rig.Tab) (string, error) {
	entries, err := rig.Run(p, chromedp.NavigationEntries())
	var urls []string
	for _, e := range entries.Entries {
		urls = append(urls, e.URL)
	}
	return strings.Join(urls, " "), err
}
