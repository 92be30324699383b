package recorded

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// scope finds the service in a signature's credential scope. IAM calls the services of these tests by the same names.
var scope = regexp.MustCompile(`Credential=[^/]+/\d+/[^/]+/([a-z0-9-]+)/aws4_request`)

// Service is the service that a request is signed for, "" if it is not signed.
func Service(r *http.Request) string {
	if m := scope.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
		return m[1]
	}
	return ""
}

// Action is the action that a signed request needs. The calls of these services have their actions' names. A call whose name is not seen
// stands by its method and path, which no policy allows.
func Action(r *http.Request, body []byte) string {
	_, call, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".") // of the JSON protocols
	if call == "" {
		form, _ := url.ParseQuery(string(body)) // of the query protocols
		call = form.Get("Action")
	}
	if call == "" {
		_, call, _ = strings.Cut(r.URL.Path, "/operation/") // of Smithy's RPC protocol
	}
	if call == "" {
		call = r.Method + r.URL.Path
	}
	return Service(r) + ":" + call
}

// RegistryAction is the action that ECR asks for at a request of the registry's protocol, "" for the sign-in.
// Source: the Amazon ECR API reference, whose pages of these actions say at which request of Docker each is called.
func RegistryAction(r *http.Request) string {
	_, of, _ := strings.Cut(r.URL.Path, "/v2/")
	isRead := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case of == "":
		return ""
	case strings.Contains(of, "/manifests/") && isRead:
		return "ecr:BatchGetImage"
	case strings.Contains(of, "/manifests/") && r.Method == http.MethodPut:
		return "ecr:PutImage"
	case strings.Contains(of, "/blobs/uploads/"):
		return map[string]string{
			http.MethodPost: "ecr:InitiateLayerUpload", http.MethodPatch: "ecr:UploadLayerPart", http.MethodPut: "ecr:CompleteLayerUpload",
		}[r.Method]
	case strings.Contains(of, "/blobs/") && r.Method == http.MethodHead:
		return "ecr:BatchCheckLayerAvailability"
	case strings.Contains(of, "/blobs/") && r.Method == http.MethodGet:
		return "ecr:GetDownloadUrlForLayer"
	}
	return "ecr:" + r.Method + r.URL.Path
}

// Handler records the AWS calls that a server gets.
func (l *List) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		l.Add(Action(r, body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// registry is a transport to a registry.
type registry struct {
	*List
	next http.RoundTripper
}

func (g registry) RoundTrip(r *http.Request) (*http.Response, error) {
	if action := RegistryAction(r); action != "" {
		g.Add(action)
	}
	return g.next.RoundTrip(r)
}

// Registry records the requests of a registry's client.
func (l *List) Registry(next http.RoundTripper) http.RoundTripper { return registry{l, next} }
