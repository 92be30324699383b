package review

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/audit"
)

// Access is somebody's attempt to reach something: a connection to a destination, or what bastiond refused.
type Access struct {
	Time        time.Time `json:"time"`
	Who         string    `json:"who"` // ARN, as the grant has it; empty: unknown
	Event       string    `json:"event"`
	Result      string    `json:"result"` // ok, failed or refused
	Destination string    `json:"destination,omitempty"`
	Address     string    `json:"address,omitempty"` // that the destination's name led to
	Reason      string    `json:"reason,omitempty"`
	BytesUp     *int64    `json:"bytes_up,omitempty"` // nil: the log has no end of the connection
	BytesDown   *int64    `json:"bytes_down,omitempty"`
	DurationMS  *int64    `json:"duration_ms,omitempty"`
	Bastion     string    `json:"bastion"` // the task's ID
	Grant       string    `json:"grant,omitempty"`
}

// Query chooses accesses. Its zero value, with a range, is all of it.
type Query struct {
	Range
	Users        []string // patterns of Match, any of which must fit Who
	Destinations []string // patterns of MatchDestination, for the destination or its address
	Denied       bool     // refused ones alone
}

// Accesses returns what the query chooses, the earliest first.
func (l *Log) Accesses(ctx context.Context, q Query) ([]Access, error) {
	events := []string{audit.Denied, audit.GrantRefused, audit.AuthRefused}
	if !q.Denied {
		events = append(events, audit.Connect, audit.Close)
	}
	j := joiner{open: make(map[channel]int)}
	if err := l.read(ctx, q.Range, events, j.add); err != nil {
		return nil, err
	}
	chosen := slices.DeleteFunc(j.all, func(a Access) bool { return !q.has(a) })
	slices.SortStableFunc(chosen, func(a, b Access) int { return a.Time.Compare(b.Time) })
	return chosen, nil
}

func (q Query) has(a Access) bool {
	user := len(q.Users) == 0 || slices.ContainsFunc(q.Users, func(p string) bool { return MatchUser(p, a.Who) })
	destination := len(q.Destinations) == 0 || slices.ContainsFunc(q.Destinations, func(p string) bool {
		return MatchDestination(p, a.Destination) || MatchDestination(p, a.Address)
	})
	return user && destination
}

// channel names a connection to a destination, by which its begin and end are joined.
type channel struct {
	task         string
	conn, number uint64
}

// joiner makes one Access of the begin and the end of a connection.
type joiner struct {
	all  []Access
	open map[channel]int // index in all
}

func (j *joiner) add(l line) {
	a := Access{
		Time: l.at, Who: l.Who, Event: l.Event, Result: l.Result, Destination: cmp.Or(l.Destination, l.Request), Address: l.Address,
		Reason: l.Reason, BytesUp: l.BytesUp, BytesDown: l.BytesDown, DurationMS: l.DurationMS, Bastion: l.task, Grant: l.Grant,
	}
	ch := channel{l.task, l.Conn, l.Channel}
	switch l.Event {
	case audit.Connect:
		j.open[ch] = len(j.all)
		a.DurationMS = nil // of the dialing
	case audit.Close:
		a.Event = audit.Connect
		if i, ok := j.open[ch]; ok {
			delete(j.open, ch)
			a.Time = j.all[i].Time
			j.all[i] = a
			return
		}
		if l.DurationMS != nil { // it began before the range
			a.Time = l.at.Add(-time.Duration(*l.DurationMS) * time.Millisecond)
		}
	}
	j.all = append(j.all, a)
}

// MatchUser reports whether a pattern fits a user's ARN. Without * it is the whole ARN, what follows its first / (ROLE/SESSION, a user's
// name), or what follows the last (SESSION).
func MatchUser(pattern, who string) bool {
	if Match(pattern, who) {
		return true
	}
	short := ShortUser(who)
	return Match(pattern, short) || Match(pattern, short[strings.LastIndexByte(short, '/')+1:])
}

// ShortUser is the part of a user's ARN that tells people of an account apart.
func ShortUser(who string) string {
	if _, short, ok := strings.Cut(who, "/"); ok && strings.HasPrefix(who, "arn:") {
		return short
	}
	return who
}

// MatchDestination reports whether a pattern of HOST:PORT, or of HOST for every port, fits a destination.
func MatchDestination(pattern, destination string) bool {
	if destination == "" {
		return false
	}
	host := destination
	if i := strings.LastIndexByte(destination, ':'); i >= 0 {
		host = destination[:i]
	}
	return Match(pattern, destination) || Match(pattern, host) || Match(pattern, strings.Trim(host, "[]"))
}

// Match reports whether a pattern fits all of a text, in upper or lower case. Each * in it fits any characters.
func Match(pattern, text string) bool {
	parts := strings.Split(strings.ToLower(pattern), "*")
	text = strings.ToLower(text)
	if len(parts) == 1 {
		return text == parts[0]
	}
	last := len(parts) - 1
	text, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1:last] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return strings.HasSuffix(text, parts[last])
}
