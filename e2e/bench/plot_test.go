//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		values []float64
		n      int
		want   []float64
	}{
		{nil, 6, []float64{0, 1}},
		{[]float64{0}, 6, []float64{0, 1}},
		{[]float64{3, 12.4}, 6, []float64{0, 5, 10, 15}},
		{[]float64{1, 16}, 10, []float64{0, 2, 4, 6, 8, 10, 12, 14, 16}},
		{[]float64{100}, 10, []float64{0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100}},
		{[]float64{0.75}, 6, []float64{0, 0.2, 0.4, 0.6, 0.8}},
		{[]float64{1000}, 6, []float64{0, 200, 400, 600, 800, 1000}},
	} {
		got := ticks(test.values, test.n)
		if !slices.EqualFunc(got, test.want, func(a, b float64) bool { return number(a) == number(b) }) {
			t.Errorf("ticks(%v, %d) = %v, want %v", test.values, test.n, got, test.want)
		}
	}
}

// The picture is well-formed XML with a dot at each measured point's place, and says what its axes are.
func TestSVG(t *testing.T) {
	c := chart{
		title: "a <title> & more", x: "sessions", y: "MB/s",
		series: []series{
			{name: "one", points: []point{{0, 0}, {5, 5}, {10, 10}}},
			{name: "two", points: []point{{0, 0}, {10, 5}}, dashed: true},
		},
	}
	dec := xml.NewDecoder(strings.NewReader(string(c.svg())))
	var texts, dots, lines []string
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.CharData:
			texts = append(texts, strings.TrimSpace(string(e)))
		case xml.StartElement:
			attr := map[string]string{}
			for _, a := range e.Attr {
				attr[a.Name.Local] = a.Value
			}
			switch {
			case e.Name.Local == "circle":
				dots = append(dots, attr["cx"]+" "+attr["cy"])
			case strings.Contains(attr["class"], "line") && strings.Contains(attr["d"], "L"):
				lines = append(lines, attr["d"])
			}
		}
	}
	for _, want := range []string{c.title, c.x, c.y, "one", "two", "10"} {
		if !slices.Contains(texts, want) {
			t.Errorf("no text %q in %q", want, texts)
		}
	}
	if want := []string{"64.0 344.0", "382.0 208.0", "700.0 72.0"}; !slices.Equal(dots, want) {
		t.Errorf("dots at %q, want %q", dots, want)
	}
	if want := []string{"M64.0 344.0L382.0 208.0L700.0 72.0", "M64.0 344.0L700.0 208.0"}; !slices.Equal(lines, want) {
		t.Errorf("lines %q, want %q", lines, want)
	}
}

func TestCharts(t *testing.T) {
	at := func(peer, metric, plot, over string, x any, v float64) row {
		return row{Peer: peer, Metric: metric, Value: v, Params: map[string]any{"plot": plot, over: x}}
	}
	failed := at("bastion-4", "download", "sessions", "sessions", 4, 0)
	failed.Params["failed"] = "why"
	got := charts([]row{
		at("bastion-8", "download", "sessions", "sessions", 8.0, 6), // as read from a file
		at("bastion-1", "download", "sessions", "sessions", 1, 0.75),
		failed,
		at(plugin, "download", "sessions", "sessions", 1, 0.5),
		at("bastion-8", "upload", "delay", "delay_ms", 10, 50),
	})
	if len(got) != 2 || got["upload-delay"] == nil {
		t.Fatalf("charts %v", got)
	}
	s := got["download-sessions"].series
	if len(s) != 2 || !slices.Equal(s[0].points, []point{{1, 0.75}, {8, 6}}) ||
		!slices.Equal(s[1].points, []point{{0, 0}, {16, 8}}) {
		t.Errorf("series %+v", s)
	}
}
