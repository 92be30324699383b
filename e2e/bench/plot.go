//go:build linux

package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// chart is a line chart with axes from 0. It is drawn as an SVG that follows the reader's light or dark colours, which
// is why no plotting library draws it.
type chart struct {
	title, x, y string
	series      []series
}

type series struct {
	name   string
	points []point // in the order of x
	dashed bool    // no measurement, but what to compare with
}

type point struct{ x, y float64 }

// The plot's place in the picture, in its units.
const (
	width, height = 720, 400
	left, right   = 64, 700
	top, bottom   = 72, 344
)

const style = `
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.paper { fill: #ffffff }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.line { fill: none; stroke-width: 2 }
.dashed { stroke-dasharray: 5 4 }
.s0 { stroke: #0969da; color: #0969da } .s1 { stroke: #bc4c00; color: #bc4c00 }
.s2 { stroke: #6e7781; color: #6e7781 } .s3 { stroke: #8250df; color: #8250df }
.dot { fill: currentColor; stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .paper { fill: #0d1117 } .grid { stroke: #3d444d }
.s0 { stroke: #58a6ff; color: #58a6ff } .s1 { stroke: #f0883e; color: #f0883e }
.s2 { stroke: #9198a1; color: #9198a1 } .s3 { stroke: #bc8cff; color: #bc8cff }
}`

// svg draws the chart.
func (c *chart) svg() []byte {
	var xs, ys []float64
	for _, s := range c.series {
		for _, p := range s.points {
			xs, ys = append(xs, p.x), append(ys, p.y)
		}
	}
	xTicks, yTicks := ticks(xs, 10), ticks(ys, 6)
	atX := func(v float64) float64 { return left + (right-left)*v/xTicks[len(xTicks)-1] }
	atY := func(v float64) float64 { return bottom - (bottom-top)*v/yTicks[len(yTicks)-1] }

	var b bytes.Buffer
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\">\n", width, height)
	fmt.Fprintf(&b, "<title>%s</title>\n<style>%s\n</style>\n", escape(c.title), style)
	fmt.Fprintf(&b, "<rect class=\"paper\" width=\"%d\" height=\"%d\"/>\n", width, height)
	text(&b, left, 24, "start", "title", c.title)
	for _, v := range yTicks {
		fmt.Fprintf(&b, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", left, atY(v), right)
		text(&b, left-8, atY(v)+4.5, "end", "", number(v))
	}
	for _, v := range xTicks {
		fmt.Fprintf(&b, "<path class=\"grid\" d=\"M%.1f %dv5\"/>\n", atX(v), bottom)
		text(&b, atX(v), bottom+20, "middle", "", number(v))
	}
	text(&b, (left+right)/2, bottom+44, "middle", "", c.x)
	fmt.Fprintf(&b, "<g transform=\"rotate(-90 18 %d)\">", (top+bottom)/2)
	text(&b, 18, (top+bottom)/2, "middle", "", c.y)
	b.WriteString("</g>\n")
	legend := float64(left)
	for i, s := range c.series {
		class := "s" + strconv.Itoa(i)
		line := class + " line"
		if s.dashed {
			line += " dashed"
		}
		fmt.Fprintf(&b, "<path class=\"%s\" d=\"M%.1f 48h24\"/>\n", line, legend)
		text(&b, legend+30, 52.5, "start", "", s.name)
		legend += 30 + 7.2*float64(len([]rune(s.name))) + 24
		var d strings.Builder
		for j, p := range s.points {
			fmt.Fprintf(&d, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[j == 0], atX(p.x), atY(p.y))
		}
		fmt.Fprintf(&b, "<path class=\"%s\" d=\"%s\"/>\n", line, &d)
		if s.dashed {
			continue
		}
		for _, p := range s.points {
			fmt.Fprintf(&b, "<circle class=\"%s dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>%s at %s</title></circle>\n",
				class, atX(p.x), atY(p.y), number(p.y), number(p.x))
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// ticks are round numbers from 0 to the first that is not below any of vs: about n of them.
func ticks(vs []float64, n int) []float64 {
	most := 0.0
	if len(vs) > 0 {
		most = slices.Max(vs)
	}
	if most <= 0 {
		return []float64{0, 1}
	}
	step := math.Pow(10, math.Floor(math.Log10(most/float64(n))))
	for _, f := range []float64{1, 2, 5, 10} {
		if most/(f*step) <= float64(n) {
			step *= f
			break
		}
	}
	var list []float64
	for i := range int(math.Ceil(most/step-1e-9)) + 1 {
		list = append(list, float64(i)*step)
	}
	return list
}

func text(b *bytes.Buffer, x, y float64, anchor, class, s string) {
	if class != "" {
		class = fmt.Sprintf(" class=%q", class)
	}
	fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y, anchor, class, escape(s))
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes all
	return b.String()
}
