package awssdk

import (
	"bufio"
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/bastion-ssm/bastion/internal/pattern"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// foreignPage is the error for an answer that is not AWS's. AWS's APIs answer in JSON or XML; proxies, firewalls and captive
// portals answer in HTML. A proxy's refusal to connect counts too.
type foreignPage struct {
	status int
	by     string // its sender, as far as it is known
}

func (e *foreignPage) Error() string { return fmt.Sprintf("HTTP %d: %s", e.status, e.by) }

// HTTPStatusCode serves the SDK's retries and package awsanswer.
func (e *foreignPage) HTTPStatusCode() int { return e.status }

// RetryableError tells the SDK whether to retry: a refusal is final.
func (e *foreignPage) RetryableError() bool {
	return e.status >= http.StatusInternalServerError || e.status == http.StatusTooManyRequests
}

// Page serves package awsanswer.
func (e *foreignPage) Page() string { return e.by }

// pageSize is how much of a page is searched for its start and title, in bytes.
const pageSize = 16 << 10

// noticePages fails a call with a foreignPage if the answer is HTML, even a successful one: the client of an XML service reads
// a page as an empty list. It goes by the body, because some endpoints do not label their JSON.
func noticePages(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("NoticePages", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleDeserialize(ctx, in)
		response, ok := out.RawResponse.(*smithyhttp.Response)
		if err != nil || !ok || response.Body == nil {
			return out, metadata, err
		}
		body := bufio.NewReaderSize(response.Body, pageSize)
		response.Body = peeked{body, response.Body}
		begin, _ := body.Peek(1) // a read error reaches the answer's reader
		if len(begin) == 0 || begin[0] == '{' || begin[0] == '[' {
			return out, metadata, nil
		}
		begin, _ = body.Peek(pageSize)
		if !pageStart().Match(begin) {
			return out, metadata, nil
		}
		return out, metadata, &foreignPage{response.StatusCode, sender(response.Header, begin)}
	}), middleware.After)
}

// peeked is a body that has been read ahead in part.
type peeked struct {
	io.Reader
	io.Closer
}

var (
	// pageStart matches the start of an HTML page.
	pageStart = pattern.Lazy(`(?i)^[\s\x{feff}]*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html)\b`)
	pageTitle = pattern.Lazy(`(?is)<title[^>]*>(.*?)</title>`)
)

// sender describes a page's sender by its title and headers.
func sender(header http.Header, page []byte) string {
	by := "a proxy, a firewall or a gateway answered"
	if found := pageTitle().FindSubmatch(page); found != nil {
		if words := printable.Line(strings.Join(strings.Fields(html.UnescapeString(string(found[1]))), " ")); words != "" {
			by += fmt.Sprintf(", %q", short(words))
		}
	}
	return by + named(header, "Server") + named(header, "Via")
}

// named returns ", NAME: VALUE" for a header; "" if it is missing.
func named(header http.Header, name string) string {
	if value := printable.Line(header.Get(name)); value != "" {
		return ", " + name + ": " + short(value)
	}
	return ""
}

// short cuts foreign text to 80 characters.
func short(s string) string {
	if runes := []rune(s); len(runes) > 80 {
		return string(runes[:77]) + "..."
	}
	return s
}

// noticeRefusals turns a proxy's refusal to connect into a foreignPage with its status. Go's own error lacks the status code.
func noticeRefusals(transport *http.Transport) {
	transport.OnProxyConnectResponse = func(_ context.Context, proxy *url.URL, _ *http.Request, response *http.Response) error {
		if response.StatusCode == http.StatusOK {
			return nil
		}
		return &foreignPage{response.StatusCode, "the proxy " + proxy.Host + " refused the connection" + named(response.Header, "Server")}
	}
}

// httpClient returns the SDK's own client, with noticeRefusals.
func httpClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(noticeRefusals)
}
