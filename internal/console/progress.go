package console

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// Progress shows on standard error the current wait and its duration. On a terminal it is one live line. Elsewhere it writes a line
// for each new step, and one every stillWaiting. A nil *Progress is quiet.
type Progress struct {
	*display
	label string // before each text: "[prod] "; "" for the display itself
}

// display is what a Progress and those of its environments share.
type display struct {
	w       io.Writer
	live    bool
	colours bool // the terminal shows colours

	mu      sync.Mutex
	step    string            // "" without a wait
	of      string            // the label of step
	colour  map[string]string // the colours of labels
	since   time.Time         // when step began
	drawn   bool              // the live line is on the screen
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

// NewProgress starts a display on w. The caller must call Close.
func NewProgress(w io.Writer, quiet bool) *Progress {
	if quiet {
		return nil
	}
	p := &display{
		w: w, live: IsTerminal(w) && os.Getenv("TERM") != "dumb",
		stop: make(chan struct{}), done: make(chan struct{}), colour: make(map[string]string),
	}
	p.colours = p.live && os.Getenv("NO_COLOR") == ""
	go p.run()
	return &Progress{display: p}
}

// In returns the display for what happens in an environment: each text begins with its name, in its colour on a terminal. It shares
// the live line. Without a name it is p.
func (p *Progress) In(environment, colour string) *Progress {
	if p == nil || environment == "" {
		return p
	}
	label := "[" + environment + "] "
	p.mu.Lock()
	defer p.mu.Unlock()
	p.colour[label] = Colour(colour)
	return &Progress{p.display, label}
}

func (p *display) run() {
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

func (p *display) tick() {
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

// Step shows a new wait.
func (p *Progress) Step(text string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text = p.label + text
	if p.stopped || text == p.step {
		return
	}
	p.step, p.of, p.since = text, p.label, time.Now()
	if p.live {
		p.draw()
		return
	}
	_ = Printf(p.w, "bastion: %s\n", Paragraph(text))
}

// slowAfter is how long a usually short wait stays silent.
const slowAfter = 2 * time.Second

// StepIfSlow shows a wait once it has lasted slowAfter. The caller calls end after the wait.
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

// Note prints a permanent line.
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
	before, after := p.painted(p.label)
	_ = Printf(p.w, "bastion: "+before+"%s"+after+"%s\n", p.label, Paragraph(text))
}

// Idle ends the wait silently.
func (p *Progress) Idle() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.label != "" && p.of != p.label {
		return // another environment's wait goes on
	}
	p.clear()
	p.step = ""
}

// Write prints log lines above the live line. Each call must have whole lines, as slog's handlers write them.
func (p *Progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	if _, err := io.WriteString(p.w, printable.Text(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close removes the live line and stops the display. A second call does nothing.
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

// draw writes the live line, cut to the terminal's width. Callers hold p.mu.
func (p *display) draw() {
	line := fmt.Sprintf("%s %s %s", frames[p.frame%len(frames)], printable.OneLine(p.step), p.elapsed())
	if f, ok := p.w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 1 {
			if r := []rune(line); len(r) >= width {
				line = string(r[:width-1])
			}
		}
	}
	before, after := p.painted(p.of)
	if p.of != "" && before != "" {
		line = strings.Replace(line, p.of, before+p.of+after, 1)
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", line)
	p.drawn = true
}

// clear removes the live line. Callers hold p.mu.
func (p *display) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *display) elapsed() time.Duration { return time.Since(p.since).Round(time.Second) }

// painted returns what begins and ends the colour of a label; both are empty without one. Callers hold p.mu.
func (p *display) painted(label string) (before, after string) {
	if colour := p.colour[label]; colour != "" && p.colours {
		return colour, "\x1b[0m"
	}
	return "", ""
}
