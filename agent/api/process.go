package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// HeaderProcess is a request header with hashes of the variables that the client's process reads only once, as a query string.
// If the agent's own variables differ, it refuses requests that reach AWS.
const HeaderProcess = "Bastion-Process"

// ActAs makes the agent refuse requests if its own variables differ from the process's, given by their hashes. It returns c.
func (c *Client) ActAs(process map[string]string) *Client {
	sums := make(url.Values)
	for name, sum := range process {
		sums.Set(name, sum)
	}
	c.process = sums.Encode()
	return c
}

// OtherProcessError says that the agent cannot act for a process, because variables that a process reads only once differ.
type OtherProcessError struct{ Variables []string }

func (e *OtherProcessError) Error() string {
	return "the agent was started with another " + strings.Join(e.Variables, ", ")
}

// CheckProcess compares a request's process with this one. differ returns the names of the variables with other hashes.
func CheckProcess(h http.Header, differ func(theirs map[string]string) []string) error {
	if h.Get(HeaderProcess) == "" { // from another program
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
