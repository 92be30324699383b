package console

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := NewProgress(&out, false)
		p.Step("one")
		p.Step("one")
		<-time.After(stillWaiting + time.Second)
		p.Step("two")
		p.Note("news")
		p.Idle()
		<-time.After(2 * stillWaiting)
		p.Close()
		p.Close()
		p.Step("three")
		p.Note("late")
		want := "bastion: one\nbastion: still waiting: one (15s)\nbastion: two\nbastion: news\n"
		if out.String() != want {
			t.Errorf("got  %q\nwant %q", out.String(), want)
		}
		quiet := NewProgress(&out, true)
		quiet.Step("x")
		quiet.Note("x")
		quiet.Idle()
		quiet.Close()
		if out.String() != want {
			t.Errorf("quiet says %q", out.String())
		}
	})
}

func TestProgressLiveLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := &Progress{display: &display{w: &out, live: true, stop: make(chan struct{}), done: make(chan struct{})}}
		go p.run()
		p.Step("one")
		<-time.After(redraw + time.Millisecond)
		p.Note("news")
		<-time.After(redraw)
		p.Close()
		want := "\r\x1b[K| one 0s" + "\r\x1b[K/ one 0s" + "\r\x1b[Kbastion: news\n" + "\r\x1b[K- one 0s" + "\r\x1b[K"
		if out.String() != want {
			t.Errorf("got  %q\nwant %q", out.String(), want)
		}
	})
}

// Whatever a step says, each of its lines on the terminal is harmless and begins as ours do.
func TestProgressIsHarmless(t *testing.T) {
	const bad = "a\nbastion: b\x1b[2J\u202e"
	var out bytes.Buffer
	p := NewProgress(&out, false)
	defer p.Close()
	p.Step(bad)
	p.tick()
	p.Note(bad)
	if _, err := p.Write([]byte("log " + bad + "\n")); err != nil {
		t.Fatal(err)
	}
	const harmless = "a bastion: b?[2J?"
	want := "bastion: a\n  bastion: b?[2J?\nbastion: still waiting: " + harmless + " (0s)\nbastion: a\n  bastion: b?[2J?\nlog a\nbastion: b?[2J?\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
}

// Several environments share one display: each text begins with its name, a wait of one does not end that of another, and a terminal
// shows the name in its colour.
func TestProgressOfEnvironments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := NewProgress(&out, false)
		dev, prod := p.In("dev", ""), p.In("prod", "red")
		if p.In("", "red") != p {
			t.Error("another display without an environment")
		}
		dev.Step("starting")
		prod.Step("starting")
		dev.Idle()
		<-time.After(stillWaiting + time.Second)
		prod.Idle()
		<-time.After(stillWaiting)
		dev.Note("done")
		p.Close()
		want := "bastion: [dev] starting\nbastion: [prod] starting\nbastion: still waiting: [prod] starting (15s)\nbastion: [dev] done\n"
		if out.String() != want {
			t.Errorf("got  %q\nwant %q", out.String(), want)
		}
		if (*Progress)(nil).In("dev", "") != nil {
			t.Error("a quiet display speaks in an environment")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := &Progress{display: &display{
			w: &out, live: true, colours: true, stop: make(chan struct{}), done: make(chan struct{}), colour: make(map[string]string),
		}}
		go p.run()
		prod := p.In("prod", "#ff0000")
		prod.Step("one")
		prod.Note("news")
		p.Close()
		const name = "\x1b[38;2;255;0;0m[prod] \x1b[0m"
		want := "\r\x1b[K| " + name + "one 0s" + "\r\x1b[K" + "bastion: " + name + "news\n"
		if out.String() != want {
			t.Errorf("got  %q\nwant %q", out.String(), want)
		}
	})
}

// A colour is one sequence that changes nothing but the colour; any other text is none.
func TestColour(t *testing.T) {
	for name, want := range map[string]string{
		"red": "\x1b[31m", "white": "\x1b[37m", "#0a141E": "\x1b[38;2;10;20;30m", "": "", "pink": "", "#fff": "", "#\x1b[2Jab": "", "#gggggg": "",
	} {
		if got := Colour(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
