// Package duration reads and writes durations in the form that people use.
package duration

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Parse reads a duration such as 90s, 5m or 1h30m.
func Parse(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		if _, numErr := strconv.Atoi(text); numErr == nil {
			return 0, fmt.Errorf("%q has no unit; write for example %ss or %sm", text, text, text)
		}
		return 0, fmt.Errorf("%q is not a duration such as 90s, 5m or 1h30m", text)
	}
	return d, nil
}

// String writes a duration without its zero parts: 12h, not 12h0m0s.
func String(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
