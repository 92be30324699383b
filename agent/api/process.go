package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// HeaderProcess is the header of requests with agent.ProcessEnv of the client's process, as a query string. An agent whose own
// variables differ refuses what reaches AWS.
const HeaderProcess = "Bastion-Process"

// ActAsThis makes the agent refuse what it would not do as this process does.
func (c *Client) ActAsThis() *Client {
	sums := make(url.Values)
	for name, sum := range agent.ProcessEnv() {
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

// CheckProcess compares the process that has sent a request with this one.
func CheckProcess(h http.Header) error {
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
	if differ := agent.OtherEnv(agent.ProcessEnv(), theirs); len(differ) > 0 {
		return fail.New(fail.Usage, "", &OtherProcessError{differ}, "bastion agent stop, then try again; --no-agent does without the agent")
	}
	return nil
}
