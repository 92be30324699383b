package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// HeaderProcess is the header of requests with sums of the variables that the client's process reads once for all, as a query
// string. An agent whose own variables differ refuses what reaches AWS.
const HeaderProcess = "Bastion-Process"

// ActAs makes the agent refuse what it would not do as a process does that has variables of these sums.
func (c *Client) ActAs(process map[string]string) *Client {
	sums := make(url.Values)
	for name, sum := range process {
		sums.Set(name, sum)
	}
	c.process = sums.Encode()
	return c
}

// OtherProcessError is why an agent cannot act for a process: variables that a process reads once for all differ.
type OtherProcessError struct{ Variables []string }

func (e *OtherProcessError) Error() string {
	return "the agent was started with another " + strings.Join(e.Variables, ", ")
}

// CheckProcess compares the process that has sent a request with this one: differ returns the names of the variables whose sums
// are others.
func CheckProcess(h http.Header, differ func(theirs map[string]string) []string) error {
	if h.Get(HeaderProcess) == "" { // another program's
		return nil
	}
	sent, err := url.ParseQuery(h.Get(HeaderProcess))
	if err != nil {
		return fail.New(fail.Usage, "read the header "+HeaderProcess, err, "see docs/api.md")
	}
	theirs := make(map[string]string, len(sent))
	for name := range sent {
		theirs[name] = sent.Get(name)
	}
	if names := differ(theirs); len(names) > 0 {
		return fail.New(fail.Usage, "", &OtherProcessError{names}, "bastion agent stop, then try again; --no-agent does without the agent")
	}
	return nil
}
