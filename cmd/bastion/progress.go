package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// progress says on standard error what a command waits for and how long it has been. On a terminal it is one live line;
// elsewhere it is a line for each new step, and one every stillWaiting. A nil *progress is quiet.
type progress struct {
	w    io.Writer
	live bool

	mu      sync.Mutex
	step    string    // "" when nothing is waited for
	since   time.Time // when step began
	drawn   bool      // the live line is on the screen
	frame   int
	stopped bool
	starts  bool // a task is being started

	stop chan struct{}
	done chan struct{}
}

const (
	redraw       = 120 * time.Millisecond
	stillWaiting = 15 * time.Second
)

var frames = []string{"|", "/", "-", "\\"}

// newProgress starts a display on w. Close must be called.
func newProgress(w io.Writer, quiet bool) *progress {
	if quiet {
		return nil
	}
	f, ok := w.(*os.File)
	p := &progress{
		w: w, live: ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb",
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go p.run()
	return p
}

func (p *progress) run() {
	defer close(p.done)
	interval := stillWaiting
	if p.live {
		interval = redraw
	}
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.tick()
		}
	}
}

func (p *progress) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.step == "" {
		return
	}
	if p.live {
		p.frame++
		p.draw()
		return
	}
	_ = printf(p.w, "bastion: still waiting: %s (%s)\n", p.step, p.elapsed())
}

// Step shows what is waited for from now on.
func (p *progress) Step(text string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starts = p.starts || strings.HasPrefix(text, access.StepStarting)
	if p.stopped || text == p.step {
		return
	}
	p.step, p.since = text, time.Now()
	if p.live {
		p.draw()
		return
	}
	_ = printf(p.w, "bastion: %s\n", paragraph(text))
}

// slowAfter is how long a wait of mostly no time goes on without a word.
const slowAfter = 2 * time.Second

// StepIfSlow shows what is waited for once that has taken slowAfter. The wait ends with a call of what it returns.
func (p *progress) StepIfSlow(text string) (end func()) {
	if p == nil {
		return func() {}
	}
	shown := make(chan struct{})
	t := time.AfterFunc(slowAfter, func() {
		p.Step(text)
		close(shown)
	})
	return func() {
		if !t.Stop() {
			<-shown
			p.Idle()
		}
	}
}

// Note prints a line that stays.
func (p *progress) Note(text string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.clear()
	_ = printf(p.w, "bastion: %s\n", paragraph(text))
}

// GivenUp says what stays of a command that a signal ended before it was ready.
func (p *progress) GivenUp(ctx context.Context) {
	if p == nil || !errors.As(context.Cause(ctx), new(interrupted)) {
		return
	}
	p.mu.Lock()
	starts := p.starts
	p.mu.Unlock()
	if starts {
		p.Note("the bastion task that is being started stays, until nobody has used it for a while; bastion down stops it")
	}
}

// Idle ends the wait without a word.
func (p *progress) Idle() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.step = ""
}

// Write lets log lines pass above the live line. Each call must have whole lines, as those of slog's handlers do.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	if _, err := io.WriteString(p.w, printable.Text(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close removes the live line and stops the display. It may be called twice.
func (p *progress) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return
	}
	p.stopped = true
	p.clear()
	p.step = ""
	p.mu.Unlock()
	close(p.stop)
	<-p.done
}

// draw writes the live line, cut to the width of the terminal. p.mu is held.
func (p *progress) draw() {
	line := fmt.Sprintf("%s %s %s", frames[p.frame%len(frames)], printable.OneLine(p.step), p.elapsed())
	if f, ok := p.w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 1 {
			if r := []rune(line); len(r) >= width {
				line = string(r[:width-1])
			}
		}
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", line)
	p.drawn = true
}

// clear removes the live line. p.mu is held.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *progress) elapsed() time.Duration { return time.Since(p.since).Round(time.Second) }
