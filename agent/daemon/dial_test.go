package daemon

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
)

// What is known of dialed connections is told once, is forgotten in time, and is bounded.
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
		for i := len(s.byID); i < maxDials; i++ {
			s.byID[strconv.Itoa(i)] = &dialed{}
		}
		if s.begin("one more") == nil || len(s.byID) != maxDials {
			t.Errorf("%d are known", len(s.byID))
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
