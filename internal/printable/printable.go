// Package printable makes foreign text (from AWS, files, the far end, other users) safe for a terminal and a log line. It
// removes characters that draw, move the cursor, reorder or hide text, or begin another line.
package printable

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Mark replaces an unprintable character.
const Mark = '?'

// Line returns s on one line. It replaces each rune that is not printable in Unicode, and each byte that is not UTF-8, with
// Mark. That covers control characters (C0, C1, DEL) with ESC, format characters (bidirectional controls, zero-width
// characters, tags), line and paragraph separators, all spaces but ' ', and private and unassigned runes.
func Line(s string) string { return Replace(s, Mark) }

// Replace is Line with another mark.
func Replace(s string, mark rune) string {
	return strings.Map(func(r rune) rune {
		if isSafe(r) {
			return r
		}
		return mark
	}, markInvalid(s, mark))
}

// Text is Line for several lines: it keeps LF and tabs, and turns CR LF into LF.
func Text(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, line := range lines {
		cells := strings.Split(line, "\t")
		for j, cell := range cells {
			cells[j] = Line(cell)
		}
		lines[i] = strings.Join(cells, "\t")
	}
	return strings.Join(lines, "\n")
}

// OneLine is Text with each LF and tab as a space.
func OneLine(s string) string { return strings.NewReplacer("\n", " ", "\t", " ").Replace(Text(s)) }

// Row joins the cells of a table row with tabs, for text/tabwriter. A cell cannot begin another cell or row.
func Row(cells ...any) string {
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = Line(fmt.Sprint(c))
	}
	return strings.Join(texts, "\t")
}

// JSON escapes the non-ASCII characters that Line would replace, so that a terminal shows the text safely. The data stays the
// same.
func JSON(text []byte) []byte {
	var b strings.Builder
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf && r != 0x7f || isSafe(r) && r != utf8.RuneError:
			b.WriteRune(r)
		case r > 0xffff:
			const base = 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+(r-base)>>10, 0xdc00+(r-base)&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return []byte(b.String())
}

func isSafe(r rune) bool { return unicode.IsPrint(r) && !hidden(r) }

// hidden reports runes that Unicode counts as letters, marks or symbols but that show nothing: fillers, variation selectors,
// the combining grapheme joiner and the null notehead.
func hidden(r rune) bool {
	switch r {
	case 0x034f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x2800, 0x3164, 0xffa0, 0x16fe4, 0x1d159:
		return true
	}
	return 0xfe00 <= r && r <= 0xfe0f || 0xe0100 <= r && r <= 0xe01ef || 0x180b <= r && r <= 0x180f
}

// markInvalid replaces each byte that is not UTF-8 with mark.
func markInvalid(s string, mark rune) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			r = mark
		}
		b.WriteRune(r)
		s = s[n:]
	}
	return b.String()
}

// Writer is Text for all writes to w. It is the last step before a terminal, so that no writer can forget it. It is safe for
// concurrent use.
type Writer struct {
	w io.Writer

	mu   sync.Mutex
	rest []byte // the start of a rune, or a CR
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write writes the text in b. An incomplete rune at its end waits for the rest.
func (w *Writer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := slices.Concat(w.rest, b)
	cut := len(text) - unfinished(text)
	w.rest = text[cut:]
	if cut == 0 {
		return len(b), nil
	}
	if _, err := io.WriteString(w.w, Text(string(text[:cut]))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// unfinished returns how many bytes at the end of b may begin a rune or a CR LF.
func unfinished(b []byte) int {
	if n := len(b); n > 0 && b[n-1] == '\r' {
		return 1
	}
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return n
			}
			return 0
		}
	}
	return 0
}
