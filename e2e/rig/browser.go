package rig

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/chromedp/cdproto"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browserLimit is how long a browser of a test lives at most.
const browserLimit = 3 * time.Minute

// Browser is a headless Chromium that resolves no name and reaches only loopback addresses.
type Browser struct {
	t     testing.TB
	first context.Context
}

// Tab is one of its pages.
type Tab struct {
	t   testing.TB
	ctx context.Context
}

// StartBrowser starts a browser with a profile of its own; it ends with the test.
func StartBrowser(t testing.TB) (*Browser, *Tab) {
	t.Helper()
	program := Need(t, "chromium")
	home := t.TempDir()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
	)
	limit, cancelLimit := context.WithTimeout(context.Background(), browserLimit)
	allocator, cancelAllocator := chromedp.NewExecAllocator(limit, options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("end the browser: %v", err)
		}
		cancel()
		cancelAllocator() // waits
		cancelLimit()
	})
	if err := chromedp.Do(ctx); err != nil { // starts it
		t.Fatal(err)
	}
	b := &Browser{t: t, first: ctx}
	first := b.watch(ctx)
	return b, first
}

// NewTab opens another tab, which has the focus.
func (b *Browser) NewTab() *Tab {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.first)
	b.t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		b.t.Fatal(err)
	}
	return b.watch(ctx)
}

// watch makes exceptions of a tab's scripts failures of the test.
func (b *Browser) watch(ctx context.Context) *Tab {
	b.t.Helper()
	if err := chromedp.Listen(ctx, func(ev any) {
		if e, ok := ev.(*runtime.EventExceptionThrown); ok {
			b.t.Errorf("a script failed: %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
		}
	}); err != nil {
		b.t.Fatal(err)
	}
	return &Tab{t: b.t, ctx: ctx}
}

// Do runs steps.
func (p *Tab) Do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// Eval returns the value of an expression, whose promise it waits for.
func Eval[T any](p *Tab, expression string) T {
	p.t.Helper()
	v, err := eval[T](p, expression)
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

func eval[T any](p *Tab, expression string) (T, error) {
	return chromedp.Run(p.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// Until waits until an expression is true, on whatever page the tab shows then.
func (p *Tab) Until(expression string) {
	p.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for {
		is, err := eval[bool](p, "!!("+expression+")")
		if is {
			return
		}
		// While one page follows another, the browser refuses.
		if _, refused := errors.AsType[*cdproto.Error](err); err != nil && !refused {
			p.t.Fatalf("%s: %v", expression, err)
		}
		select {
		case <-tick.C:
		case <-late:
			p.t.Fatalf("never true: %s, %v\n%s", expression, err, Eval[string](p, "document.body.innerText"))
		}
	}
}

// Key presses a key; with shift if shift is set.
func (p *Tab) Key(key string, shift bool) {
	p.t.Helper()
	var options []chromedp.KeyOption
	if shift {
		options = append(options, chromedp.KeyModifiers(chromedp.ModifierShift))
	}
	p.Do(chromedp.KeyEvent(key, options...))
}

// Paste puts what the browser has copied where the focus is.
func (p *Tab) Paste() {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, input.DispatchKeyEvent, input.DispatchKeyEventParams{
		Type: input.DispatchKeyEventTypeKeyDown, Commands: []string{"paste"},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// Look makes the tab so wide and high, light or dark, and without motion.
func (p *Tab) Look(width, height int64, scheme string) {
	p.t.Helper()
	p.Do(chromedp.EmulateViewport(width, height))
	_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// Screenshot returns a picture of the whole page, as PNG.
func (p *Tab) Screenshot() []byte {
	p.t.Helper()
	data, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		p.t.Fatal(err)
	}
	return data
}

// Run runs an action.
func Run[T any](p *Tab, action chromedp.Action[T]) (T, error) { return chromedp.Run(p.ctx, action) }
