package console

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// Progress says on standard error what a command waits for and how long it has been. On a terminal it is one live line;
// elsewhere it is a line for each new step, and one every stillWaiting. A nil *Progress is quiet.
type Progress struct {
	w    io.Writer
	live bool

	mu      sync.Mutex
	step    string    // "" when nothing is waited for
	since   time.Time // when step began
	drawn   bool      // the live line is on the screen
	frame   int
	stopped bool

	stop chan struct{}
	done chan struct{}
}

const (
	redraw       = 120 * time.Millisecond
	stillWaiting = 15 * time.Second
)

var frames = []string{"|", "/", "-", "\\"}

// NewProgress starts a display on w. Close must be called.
func NewProgress(w io.Writer, quiet bool) *Progress {
	if quiet {
		return nil
	}
	f, ok := w.(*os.File)
	p := &Progress{
		w: w, live: ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb",
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go p.run()
	return p
}

func (p *Progress) run() {
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

func (p *Progress) tick() {
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
	_ = Printf(p.w, "bastion: still waiting: %s (%s)\n", p.step, p.elapsed())
}

// Step shows what is waited for from now on.
func (p *Progress) Step(text string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || text == p.step {
		return
	}
	p.step, p.since = text, time.Now()
	if p.live {
		p.draw()
		return
	}
	_ = Printf(p.w, "bastion: %s\n", Paragraph(text))
}

// slowAfter is how long a wait of mostly no time goes on without a word.
const slowAfter = 2 * time.Second

// StepIfSlow shows what is waited for once that has taken slowAfter. The wait ends with a call of what it returns.
func (p *Progress) StepIfSlow(text string) (end func()) {
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
func (p *Progress) Note(text string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.clear()
	_ = Printf(p.w, "bastion: %s\n", Paragraph(text))
}

// Idle ends the wait without a word.
func (p *Progress) Idle() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.step = ""
}

// Write lets log lines pass above the live line. Each call must have whole lines, as those of slog's handlers do.
func (p *Progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	if _, err := io.WriteString(p.w, printable.Text(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close removes the live line and stops the display. It may be called twice.
func (p *Progress) Close() {
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
func (p *Progress) draw() {
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
func (p *Progress) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *Progress) elapsed() time.Duration { return time.Since(p.since).Round(time.Second) }
