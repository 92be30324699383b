package review

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Moment reads a point in time: RFC 3339, a day, or a day with its time. Without a zone it is UTC, as the log is.
func Moment(text string) (time.Time, error) {
	for _, layout := range []string{
		time.RFC3339, time.DateOnly, "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02 15:04",
		time.DateTime,
	} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: want 2026-11-30, 2026-11-30T14:05 or 2026-11-30T14:05:00Z (UTC without a zone)", text)
}

// Ago reads how long ago something was: 90m, 24h or 30d.
func Ago(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= 36500 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no time span: want 90m, 24h or 30d", text)
	}
	return d, nil
}

// NewRange returns the range of a command's options: From, or Since before now, until To or now.
func NewRange(now time.Time, since time.Duration, from, to time.Time) (Range, error) {
	r := Range{From: from, To: to}
	if to.IsZero() {
		r.To = now
	}
	if from.IsZero() {
		r.From = r.To.Add(-since)
	}
	if !r.From.Before(r.To) {
		return r, fmt.Errorf("the range from %s to %s is empty", r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	}
	return r, nil
}

func errMonth(text string) error {
	return fmt.Errorf("%q is no month that has begun: want 2026-11, or this", text)
}
