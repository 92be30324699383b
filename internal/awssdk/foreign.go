package awssdk

import (
	"bufio"
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// foreignPage is the error for an answer that is none of AWS's: AWS's APIs answer in JSON or XML, proxies, firewalls and captive
// portals in HTML. A proxy's refusal to connect is one too.
type foreignPage struct {
	status int
	by     string // what is known of its sender
}

func (e *foreignPage) Error() string { return fmt.Sprintf("HTTP %d: %s", e.status, e.by) }

// HTTPStatusCode is what the SDK's retries and package awsanswer ask for.
func (e *foreignPage) HTTPStatusCode() int { return e.status }

// RetryableError tells the SDK whether to try again: a refusal stands.
func (e *foreignPage) RetryableError() bool {
	return e.status >= http.StatusInternalServerError || e.status == http.StatusTooManyRequests
}

// Page is what package awsanswer asks for.
func (e *foreignPage) Page() string { return e.by }

// pageSize is how much of a page is read for its title.
const pageSize = 16 << 10

// noticePages ends a call with a foreignPage where the answer is HTML, a success too: an XML service takes a page for an empty list. The
// answer itself decides, because not every endpoint labels its JSON as such.
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
		begin, _ := body.Peek(1) // what cannot be read is for the reader of the answer to find out
		if len(begin) == 0 || begin[0] == '{' || begin[0] == '[' {
			return out, metadata, nil
		}
		begin, _ = body.Peek(pageSize)
		if !pageStart.Match(begin) {
			return out, metadata, nil
		}
		return out, metadata, &foreignPage{response.StatusCode, sender(response.Header, begin)}
	}), middleware.After)
}

// peeked is a body of which a part has been read ahead.
type peeked struct {
	io.Reader
	io.Closer
}

var (
	// pageStart is how a page begins.
	pageStart = regexp.MustCompile(`(?i)^[\s\x{feff}]*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html)\b`)
	pageTitle = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)
)

// sender says who sent a page, as far as its title and headers tell.
func sender(header http.Header, page []byte) string {
	by := "a proxy, a firewall or a gateway answered"
	if found := pageTitle.FindSubmatch(page); found != nil {
		if words := printable.Line(strings.Join(strings.Fields(html.UnescapeString(string(found[1]))), " ")); words != "" {
			by += fmt.Sprintf(", %q", short(words))
		}
	}
	return by + named(header, "Server") + named(header, "Via")
}

// named returns a header with its name, to follow other words; "" if it is missing.
func named(header http.Header, name string) string {
	if value := printable.Line(header.Get(name)); value != "" {
		return ", " + name + ": " + short(value)
	}
	return ""
}

// short cuts what others wrote to what fits into a message.
func short(s string) string {
	if runes := []rune(s); len(runes) > 80 {
		return string(runes[:77]) + "..."
	}
	return s
}

// noticeRefusals makes a proxy's refusal to connect an error that has its status: Go's own has its words alone.
func noticeRefusals(transport *http.Transport) {
	transport.OnProxyConnectResponse = func(_ context.Context, proxy *url.URL, _ *http.Request, response *http.Response) error {
		if response.StatusCode == http.StatusOK {
			return nil
		}
		return &foreignPage{response.StatusCode, "the proxy " + proxy.Host + " refused the connection" + named(response.Header, "Server")}
	}
}

// httpClient returns the SDK's own client, which also notices a proxy's refusals.
func httpClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(noticeRefusals)
}
