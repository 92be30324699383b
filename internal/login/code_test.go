package login

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// The answer counts once: a second one is refused while the first becomes a token.
func TestAnswerCountsOnce(t *testing.T) {
	f := newCodeFlow("127.0.0.1:1")
	bring := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		f.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, f.redirect()+"?code=x&state="+f.state, http.NoBody))
		return w
	}
	var first *httptest.ResponseRecorder
	var bringing sync.WaitGroup
	bringing.Go(func() { first = bring() })
	got := <-f.answers
	if second := bring(); second.Code != http.StatusGone || !strings.Contains(second.Body.String(), "Already used") {
		t.Errorf("the second answer: %d %s", second.Code, second.Body)
	}
	close(got.done)
	bringing.Wait()
	if first.Code != http.StatusOK || got.code != "x" {
		t.Errorf("the first answer: %d, %+v", first.Code, got)
	}
}
