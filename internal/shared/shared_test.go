package shared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const arn = "arn:aws:ssm:eu-central-1:111111111111:parameter/bastion/config"

// store answers for Parameter Store as it is told.
type store struct {
	t      *testing.T
	cfg    aws.Config
	calls  int
	answer func(w http.ResponseWriter)
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{t: t}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls++
		var in struct{ WithDecryption bool }
		body, err := io.ReadAll(r.Body)
		if err = errors.Join(err, json.Unmarshal(body, &in)); err != nil || !in.WithDecryption || !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".GetParameter") {
			t.Errorf("%s %s, %v", r.Header, body, err)
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		s.answer(w)
	}))
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() { client.CloseIdleConnections(); server.Close() })
	s.cfg = aws.Config{
		Region: "eu-central-1", BaseEndpoint: &server.URL, HTTPClient: client, Credentials: credentials.NewStaticCredentialsProvider("k", "s", ""),
	}
	return s
}

func (s *store) has(text string, version int) {
	s.answer = func(w http.ResponseWriter) {
		err := json.NewEncoder(w).Encode(map[string]any{"Parameter": map[string]any{
			"ARN": arn, "Name": Name, "Type": "String", "Value": text, "Version": version, "LastModifiedDate": 1.7e9,
		}})
		if err != nil {
			s.t.Error(err)
		}
	}
}

func (s *store) fails(status int, code, message string) {
	s.answer = func(w http.ResponseWriter) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"__type":%q,"message":%q}`, code, message)
	}
}

// AWS is asked once in a while, whatever it says, and what it said serves meanwhile.
func TestRead(t *testing.T) {
	s := newStore(t)
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	var noCredentials error
	r := Reader{
		Name: Name, Dir: filepath.Join(t.TempDir(), "state"), Scope: NewScope("p", "", "", nil), Now: func() time.Time { return now },
		AWS: func(context.Context) (aws.Config, error) { return s.cfg, noCredentials },
	}
	step := func(what string, how How, after time.Duration, calls int, text string, kind fail.Kind) Copy {
		t.Helper()
		now = now.Add(after)
		before := s.calls
		c, err := r.Read(t.Context(), how)
		if s.calls-before != calls || c.Text != text || (err != nil) != (kind != fail.Other) || err != nil && fail.KindOf(err) != kind {
			t.Errorf("%s: %d calls, %q, %v", what, s.calls-before, c.Text, err)
		}
		return c
	}
	step("nothing is known", Cached, 0, 0, "", fail.Other)
	s.fails(400, "ParameterNotFound", "")
	step("the account has none", Usual, 0, 1, "", fail.Other)
	step("soon again", Usual, freshFor-1, 0, "", fail.Other)
	s.has("a: 1", 1)
	c := step("it has one now", Usual, 1, 1, "a: 1", fail.Other)
	if c.Version != 1 || c.ARN != arn || c.Region != "eu-central-1" || c.Modified.Unix() != 17e8 || !c.At.Equal(now) {
		t.Errorf("%+v", c)
	}
	s.has("a: 2", 2)
	step("from the copy", Usual, time.Minute, 0, "a: 1", fail.Other)
	step("from an old copy", Cached, time.Hour, 0, "a: 1", fail.Other)
	step("the old copy is renewed", Usual, 0, 1, "a: 2", fail.Other)
	s.has("a: 3", 3)
	step("now", Anew, 0, 1, "a: 3", fail.Other)
	// Failures: the copy stays, and AWS is not asked at once again.
	s.fails(500, "InternalServerError", "no")
	c = step("AWS fails", Usual, time.Hour, attempts, "a: 3", fail.Other)
	if c.Failure == nil || !c.At.Before(c.Tried) {
		t.Errorf("%+v", c)
	}
	step("it has just failed", Usual, retryIn-1, 0, "a: 3", fail.Other)
	step("it fails again", Usual, 1, attempts, "a: 3", fail.Other)
	s.has("a: 4", 4)
	if c = step("it is back", Usual, retryIn, 1, "a: 4", fail.Other); c.Failure != nil {
		t.Errorf("%+v", c)
	}
	s.fails(400, "AccessDeniedException", "not authorized to perform: ssm:GetParameter")
	step("denied", Usual, time.Hour, 1, "a: 4", fail.Other)
	step("a denial is an answer", Usual, freshFor-1, 0, "a: 4", fail.Other)
	if err := r.Forget(); err != nil {
		t.Fatal(err)
	}
	step("denied from the beginning", Usual, 0, 1, "", fail.Denied)
	step("and soon again", Usual, time.Minute, 0, "", fail.Denied)
	step("without asking", Cached, 0, 0, "", fail.Other)
	// Missing credentials are not remembered: a login mends them at once.
	noCredentials = fail.New(fail.Credentials, "", errors.New("expired"), "sign in")
	step("no credentials", Anew, 0, 0, "", fail.Credentials)
	noCredentials = nil
	s.has("a: 5", 5)
	step("after the login, once the denial is old", Usual, freshFor, 1, "a: 5", fail.Other)
	// Another scope and another name have copies of their own.
	for _, other := range []Reader{{Name: Name, Scope: NewScope("q", "", "", nil)}, {Name: "/other", Scope: r.Scope}} {
		other.Dir, other.Now, other.AWS = r.Dir, r.Now, r.AWS
		if c, err := other.Read(t.Context(), Cached); err != nil || c.Text != "" {
			t.Errorf("%+v, %v", c, err)
		}
	}
	// A clock that was set back.
	step("before the copy was made", Usual, -48*time.Hour, 1, "a: 5", fail.Other)
	// A copy that others may write is none, and a state directory that cannot be used costs a call.
	if err := os.Chmod(r.path(), 0o666); err != nil {
		t.Fatal(err)
	}
	step("the copy is open to others", Usual, 0, 1, "a: 5", fail.Other)
	if err := os.Chmod(r.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.has("a: 6", 6)
	step("the directory is open to others", Anew, 0, 1, "a: 6", fail.Other)
}

// Copies that nobody uses any more go.
func TestSaveSweeps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	r := Reader{Name: Name, Dir: dir, Scope: "x"}
	r.save(Copy{Scope: "x", Name: Name, Tried: time.Now()})
	long := time.Now().Add(-keptFor - time.Hour)
	if err := os.Chtimes(r.path(), long, long); err != nil {
		t.Fatal(err)
	}
	other := Reader{Name: Name, Dir: dir, Scope: "y"}
	other.save(Copy{Scope: "y", Name: Name, Tried: time.Now()})
	if _, ok := r.load(); ok {
		t.Error("an unused copy is still there")
	}
	if _, ok := other.load(); !ok {
		t.Error("the new copy is gone")
	}
}

// A look-up without an answer ends, and an interrupted command is not a failure of AWS's to remember.
func TestReadEnds(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.answer = func(http.ResponseWriter) { cancel() }
	r := Reader{
		Name: Name, Dir: filepath.Join(t.TempDir(), "state"), Scope: "x", AWS: func(context.Context) (aws.Config, error) { return s.cfg, nil },
	}
	if c, err := r.Read(ctx, Usual); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", c, err)
	}
	if _, ok := r.load(); ok {
		t.Error("the interruption is kept")
	}
}

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{
		Name: true, "/a/b-c.d_e/9": true, "bastion": false, "/a/": false, "": false, "/a b": false, "/" + strings.Repeat("x", maxName): false, "/ä": false,
	} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
	base := NewScope("p", "r", "k", map[string]string{"a": "b"})
	for _, other := range []Scope{
		NewScope("q", "r", "k", map[string]string{"a": "b"}), NewScope("p", "s", "k", map[string]string{"a": "b"}),
		NewScope("p", "r", "l", map[string]string{"a": "b"}), NewScope("p", "r", "k", map[string]string{"a": "c"}), NewScope("p r", "", "k", nil),
	} {
		if other == base {
			t.Errorf("%s", other)
		}
	}
}
