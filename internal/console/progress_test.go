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
		p := &Progress{w: &out, live: true, stop: make(chan struct{}), done: make(chan struct{})}
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
