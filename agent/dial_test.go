package agent

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
)

// The record of dialed connections reports each once, forgets it in time, and is bounded.
func TestDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s dials
		c := s.begin("a")
		if s.take("a") != c || s.take("b") != nil {
			t.Error("a connection is not known by its ID, or one that was never there is")
		}
		s.end(c, nil)
		if s.take("a") != c || s.take("a") != nil {
			t.Error("an end is told more than once, or never")
		}
		s.end(s.begin(""), nil) // nobody asks
		s.end(s.begin("old"), nil)
		advance(2 * endKept)
		s.begin("new")
		if len(s.byID) != 1 {
			t.Errorf("known are %v", s.byID)
		}
		// However many have ended, or stand, the newest are known.
		for i := range maxEnds + 10 {
			s.begin("stands " + strconv.Itoa(i))
			s.end(s.begin(strconv.Itoa(i)), nil)
		}
		if s.take("0") != nil || s.take("9") != nil || s.take("10") == nil || s.take(strconv.Itoa(maxEnds+9)) == nil || s.take("stands 0") == nil ||
			s.take("new") == nil || len(s.ends) != maxEnds {
			t.Errorf("%d are known, %d of them have ended", len(s.byID), len(s.ends))
		}
		s.begin("10") // the ID is free again
		advance(2 * endKept)
		s.begin("newest")
		if s.take("10") == nil || len(s.ends) != 0 || len(s.byID) != maxEnds+13 {
			t.Errorf("%d are known, %d of them have ended", len(s.byID), len(s.ends))
		}
	})
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""}, {errors.New("connection reset by peer"), ""}, {context.Canceled, "the agent has ended"},
	} {
		got := endOf(tt.err)
		if (got.Error == nil) != (tt.want == "") || got.Error != nil && got.Error.Message != tt.want {
			t.Errorf("%v: %+v", tt.err, got.Error)
		}
	}
}
