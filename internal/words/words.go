// Package words writes values for people.
package words

import "fmt"

// Count is a number of things, in the plural with an s.
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Bytes is a number of bytes.
func Bytes(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", n/1e3)
	}
	return fmt.Sprintf("%.0f B", n)
}

// Parenthesis puts a text that is not empty in one, after a space.
func Parenthesis(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// Dash stands for a text that is empty.
func Dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
