package awsapi_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// mayAll lets an identity do everything.
var mayAll = []*iam.Policy{{Statements: []iam.Statement{{Actions: []string{"*"}, Resources: []string{"*"}}}}}

// newServer serves one service of each protocol, with an operation that says who called.
func newServer() *awsapi.Server {
	who := func(_ context.Context, c *awsapi.Call) (any, error) {
		return struct {
			Who string `json:"who"`
		}{c.Identity.Name}, nil
	}
	ops := map[string]awsapi.Op{"Who": {Handle: who, Resource: func(*awsapi.Call) string { return "arn:x" }}}
	identities := new(awsapi.Directory)
	identities.Put(awsapi.Identity{Name: "ada", ARN: "arn:ada", AccessKey: "AKIAADA", SecretKey: "secret", Policies: mayAll})
	identities.Put(awsapi.Identity{
		Name: "tmp", AccessKey: "ASIATMP", SecretKey: "secret", SessionToken: "token",
		Expires: noon.Add(time.Hour), Policies: mayAll,
	})
	identities.Put(awsapi.Identity{
		Name: "old", AccessKey: "ASIAOLD", SecretKey: "secret", SessionToken: "token",
		Expires: noon,
	})
	return awsapi.New(awsapi.Config{
		Region: "eu-central-1", Identities: identities, Now: func() time.Time { return noon },
		Services: []awsapi.Service{
			{Name: "j", Protocol: awsapi.JSON, Target: "J", Ops: ops},
			{Name: "q", Protocol: awsapi.Query, Namespace: "http://q/", Ops: ops},
			{Name: "e", Protocol: awsapi.EC2, Namespace: "http://e/", Ops: ops},
		},
	})
}

// request is a signed call; change works on it before it is signed, tamper after.
type request struct {
	service        string // j, q or e
	key, token     string
	at             time.Time
	body           string
	change, tamper func(*http.Request)
}

func (r request) send(t *testing.T, s *awsapi.Server) (status int, code, text string) {
	t.Helper()
	if r.at.IsZero() {
		r.at = noon
	}
	if r.key == "" {
		r.key = "AKIAADA"
	}
	if r.body == "" {
		r.body = "Action=Who"
		if r.service == "j" {
			r.body = "{}"
		}
	}
	req := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/", strings.NewReader(r.body))
	if r.service == "j" {
		req.Header.Set("X-Amz-Target", "J.Who")
		req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	} else {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if r.change != nil {
		r.change(req)
	}
	sum := sha256.Sum256([]byte(r.body))
	creds := aws.Credentials{AccessKeyID: r.key, SecretAccessKey: "secret", SessionToken: r.token}
	hash := hex.EncodeToString(sum[:])
	err := v4.NewSigner().SignHTTP(t.Context(), creds, req, hash, r.service, "eu-central-1", r.at)
	if err != nil {
		t.Fatal(err)
	}
	if r.tamper != nil {
		r.tamper(req)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	return w.Code, errorCode(t, r.service, w), w.Body.String()
}

// errorCode reads the code of an error as a client of the protocol would; it is empty for an answer.
func errorCode(t *testing.T, service string, w *httptest.ResponseRecorder) string {
	t.Helper()
	if w.Code == http.StatusOK {
		return ""
	}
	if service == "j" {
		var e struct {
			Type string `json:"__type"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		return e.Type
	}
	var e struct {
		XMLName xml.Name
		Query   string `xml:"Error>Code"`
		EC2     string `xml:"Errors>Error>Code"`
	}
	if err := xml.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"q": "ErrorResponse", "e": "Response"}[service]; e.XMLName.Local != want {
		t.Errorf("the error is a %s, not a %s", e.XMLName.Local, want)
	}
	return e.Query + e.EC2
}

func TestAnswers(t *testing.T) {
	s := newServer()
	for service, want := range map[string]string{
		"j": `{"who":"ada"}`,
		"q": "<WhoResponse xmlns=\"http://q/\"><WhoResult><Who>ada</Who></WhoResult><ResponseMetadata><RequestId>",
		"e": "<WhoResponse xmlns=\"http://e/\"><requestId>",
	} {
		status, code, text := request{service: service}.send(t, s)
		if status != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s %s", service, status, code, text)
		}
	}
	_, _, text := request{service: "e"}.send(t, s)
	if !strings.HasSuffix(text, "</requestId><Who>ada</Who></WhoResponse>") {
		t.Errorf("EC2 answers %s", text)
	}
	if got := s.Counts(); got["j:Who"] != 1 || got["e:Who"] != 2 {
		t.Errorf("counts %v", got)
	}
}

func TestSignatures(t *testing.T) {
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	auth := func(change func(string) string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", change(r.Header.Get("Authorization"))) }
	}
	body := func(text string) func(*http.Request) {
		return func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(text)) }
	}
	replace := func(old, with string) func(*http.Request) {
		return auth(func(s string) string { return strings.Replace(s, old, with, 1) })
	}
	const (
		accept = "accept"
		bad    = "bad signature"
	)
	codes := map[string][3]string{ // JSON, Query, EC2
		accept:       {},
		bad:          {"InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"},
		"skew":       {"InvalidSignatureException", "SignatureDoesNotMatch", "RequestExpired"},
		"key":        {"UnrecognizedClientException", "InvalidClientTokenId", "AuthFailure"},
		"expired":    {"ExpiredTokenException", "ExpiredToken", "RequestExpired"},
		"incomplete": {"IncompleteSignatureException", "IncompleteSignature", "IncompleteSignature"},
	}
	for _, tt := range []struct {
		name string
		r    request
		want string
	}{
		{"good", request{}, accept},
		{"more headers than signed", request{tamper: header("X-Trace", "1")}, accept},
		{"a signed header of the client's", request{change: header("X-Own", " a  b ")}, accept},
		{"payload hash as a header", request{change: func(r *http.Request) {
			sum := sha256.Sum256([]byte("{}"))
			if r.Header.Get("X-Amz-Target") == "" {
				sum = sha256.Sum256([]byte("Action=Who"))
			}
			r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
		}}, accept},
		{"four minutes late", request{at: noon.Add(-4 * time.Minute)}, accept},
		{"four minutes early", request{at: noon.Add(4 * time.Minute)}, accept},
		{"temporary", request{key: "ASIATMP", token: "token"}, accept},

		{"body", request{tamper: body("Action=Who&x=1")}, bad},
		{"no body", request{tamper: body("")}, bad},
		{"signed header", request{tamper: header("Content-Type", "text/plain")}, bad},
		{"signed header removed", request{tamper: func(r *http.Request) { r.Header.Del("Content-Type") }}, bad},
		{"signed header doubled", request{tamper: func(r *http.Request) { r.Header.Add("Content-Type", "text/plain") }}, bad},
		{"host", request{tamper: func(r *http.Request) { r.Host = "elsewhere" }}, bad},
		{"path", request{tamper: func(r *http.Request) { r.URL.Path = "/x" }}, bad},
		{"query", request{tamper: func(r *http.Request) { r.URL.RawQuery = "a=b" }}, bad},
		{"method", request{tamper: func(r *http.Request) { r.Method = http.MethodPut }}, bad},
		{"date", request{tamper: header("X-Amz-Date", noon.Add(time.Second).Format("20060102T150405Z"))}, bad},
		{"day of the scope", request{tamper: replace("/20261121/", "/20261120/")}, bad},
		{"region of the scope", request{tamper: replace("/eu-central-1/", "/eu-central-2/")}, bad},
		{"signature", request{tamper: auth(func(s string) string {
			last := "0"
			if strings.HasSuffix(s, "0") {
				last = "1"
			}
			return s[:len(s)-1] + last
		})}, bad},
		{"signature cut", request{tamper: auth(func(s string) string { return s[:len(s)-1] })}, bad},
		{"hash of another payload", request{change: header("X-Amz-Content-Sha256", strings.Repeat("0", 64))}, bad},
		{"date not signed", request{tamper: replace(";x-amz-date", "")}, bad},
		{"token not signed", request{
			key: "ASIATMP", token: "token",
			tamper: replace(";x-amz-security-token", ""),
		}, bad},

		{"six minutes late", request{at: noon.Add(-6 * time.Minute)}, "skew"},
		{"six minutes early", request{at: noon.Add(6 * time.Minute)}, "skew"},
		{"unknown key", request{key: "AKIANOBODY"}, "key"},
		{"no token", request{key: "ASIATMP"}, "key"},
		{"wrong token", request{key: "ASIATMP", token: "other"}, "key"},
		{"token for a user", request{token: "token"}, "key"},
		{"expired", request{key: "ASIAOLD", token: "token"}, "expired"},
		{"no date", request{tamper: func(r *http.Request) { r.Header.Del("X-Amz-Date") }}, "incomplete"},
	} {
		for i, service := range []string{"j", "q", "e"} {
			t.Run(tt.name+"/"+service, func(t *testing.T) {
				r := tt.r
				r.service = service
				status, code, text := r.send(t, newServer())
				if want := codes[tt.want][i]; code != want {
					t.Errorf("%d %q, want %q: %s", status, code, want, text)
				}
			})
		}
	}
}

func TestNoCredentials(t *testing.T) {
	s := newServer()
	for _, tt := range []struct{ header, target, json, query string }{
		{"", "J.Who", "MissingAuthenticationTokenException", "MissingAuthenticationToken"},
		{"Bearer x", "J.Who", "IncompleteSignatureException", "IncompleteSignature"},
		{"AWS4-HMAC-SHA256 Credential=a/b/c", "J.Who", "IncompleteSignatureException", "IncompleteSignature"},
		{
			"AWS4-HMAC-SHA256 Credential=a/20261121/eu-central-1/q/aws4_request", "J.Who", "IncompleteSignatureException",
			"IncompleteSignature",
		},
		{
			"AWS4-HMAC-SHA256 Credential=a/20261121/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=0",
			"J.Who", "UnknownOperationException", "InvalidAction",
		},
	} {
		for service, want := range map[string]string{"j": tt.json, "q": tt.query} {
			req := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/", http.NoBody)
			if service == "j" {
				req.Header.Set("X-Amz-Target", tt.target)
			}
			if tt.header != "" {
				req.Header.Set("Authorization", tt.header)
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, req)
			if code := errorCode(t, service, w); code != want {
				t.Errorf("%q: %d %s, want %s", tt.header, w.Code, code, want)
			}
		}
	}
}

func TestBadRequests(t *testing.T) {
	s := newServer()
	for _, tt := range []struct {
		name string
		r    request
		want string
	}{
		{"target of another service", request{service: "j", change: func(r *http.Request) {
			r.Header.Set("X-Amz-Target", "X.Who")
		}}, "UnknownOperationException"},
		{"no action", request{service: "q", body: "Version=1"}, "InvalidAction"},
		{"unknown action", request{service: "e", body: "Action=Nope"}, "InvalidAction"},
		{"no form", request{service: "q", body: "Action=%zz"}, "MalformedInput"},
	} {
		if status, code, text := tt.r.send(t, s); code != tt.want {
			t.Errorf("%s: %d %s, want %s: %s", tt.name, status, code, tt.want, text)
		}
	}
	big := request{service: "j", body: strings.Repeat(" ", 2<<20)}
	if status, _, _ := big.send(t, s); status != http.StatusRequestEntityTooLarge {
		t.Errorf("2 MiB: status %d", status)
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, action string
		want            bool
	}{
		{"ecs:RunTask", "ecs:RunTask", true},
		{"ECS:runtask", "ecs:RunTask", true},
		{"ecs:RunTask", "ecs:RunTasks", false},
		{"ecs:*", "ecs:RunTask", true},
		{"ecs:*", "ssm:RunTask", false},
		{"*", "ssm:StartSession", true},
		{"ecs:*Task*", "ecs:RunTask", true},
		{"ecs:D*T*s", "ecs:DescribeTasks", true},
		{"ecs:D*T*x", "ecs:DescribeTasks", false},
		{"a*a", "a", false},
		{"ecs:RunTas?", "ecs:RunTask", true},
		{"", "ecs:RunTask", false},
	} {
		if got := awsapi.Match(tt.pattern, tt.action); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.pattern, tt.action, got)
		}
	}
}

func TestMatchAnyWild(t *testing.T) {
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"private-?", "private-a", true},
		{"private-?", "private-", false},
		{"*-a", "private-a", true},
		{"*", "", true},
		{"Private-a", "private-a", false},
		{"a*b*c", "aXbYc", true},
		{"a*b*c", "aXbY", false},
	} {
		if got := awsapi.MatchAnyWild([]string{tt.pattern}, tt.text); got != tt.want {
			t.Errorf("%q matches %q: %v", tt.pattern, tt.text, got)
		}
	}
}

func TestPage(t *testing.T) {
	items := []int{1, 2, 3, 4, 5}
	var got []int
	marker, pages := "", 0
	for {
		page, next, ok := awsapi.Page(items, marker, 2)
		if !ok {
			t.Fatal("bad marker", marker)
		}
		got = append(got, page...)
		pages++
		if marker = next; marker == "" {
			break
		}
	}
	if !slices.Equal(got, items) || pages != 3 {
		t.Errorf("%v in %d pages", got, pages)
	}
	for _, marker := range []string{"6", "-1", "x"} {
		if _, _, ok := awsapi.Page(items, marker, 2); ok {
			t.Errorf("marker %q is accepted", marker)
		}
	}
}

func TestTime(t *testing.T) {
	b, err := json.Marshal(struct {
		A, B *awsapi.Time
	}{awsapi.At(noon.Add(5 * time.Millisecond)), awsapi.At(time.Time{})})
	if err != nil || !bytes.Equal(b, []byte(`{"A":1795262400.005,"B":null}`)) {
		t.Errorf("%s, %v", b, err)
	}
}
