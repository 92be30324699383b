package dashboard

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

const (
	maxText  = 1024 // bytes of a typed target or address
	maxNames = 500  // offered targets
)

// targets returns the targets that the page offers: the configuration's names, the forwards' targets, and the words for AWS's
// lists.
func (s *session) targets(state api.State) []string {
	var out []string
	for _, t := range s.request.Targets {
		out = append(out, t.Name)
	}
	for _, f := range state.Forwards {
		if f.Kind != api.KindProxy {
			out = append(out, f.Spec)
		}
	}
	slices.Sort(out)
	out = slices.DeleteFunc(slices.Compact(out), func(name string) bool { return name == "" })
	for _, word := range []string{"rds", "cache"} {
		if !slices.Contains(out, word) {
			out = append(out, word)
		}
	}
	return out[:min(len(out), maxNames)]
}

// openRequest returns the request to the agent for the session.
func (s *session) openRequest(in openRequest) (api.OpenRequest, error) {
	const op = "open a forward"
	in.Target, in.Listen = strings.TrimSpace(in.Target), strings.TrimSpace(in.Listen)
	f := api.ForwardRequest{Kind: in.Kind, Target: in.Target, Listen: in.Listen}
	switch {
	case len(in.Target) > maxText || len(in.Listen) > maxText:
		return api.OpenRequest{}, fail.New(fail.Usage, op, errors.New("the target or the port is too long"), "")
	case in.Kind == api.KindProxy:
		f.Target = ""
	case in.Kind != api.KindTCP && in.Kind != "":
		return api.OpenRequest{}, fail.New(fail.Usage, op, fmt.Errorf("unknown kind of forward %q", in.Kind), "choose tcp or proxy")
	case in.Target == "":
		return api.OpenRequest{}, fail.New(fail.Usage, op, errors.New("the target is missing"),
			"give a name of the configuration, rds:ID, cache:ID or HOST:PORT")
	}
	for _, t := range s.request.Targets {
		if t.Name == in.Target {
			f.Name, f.Target = t.Name, t.Spec
			if f.Listen == "" && t.LocalPort != 0 {
				f.Listen = strconv.Itoa(t.LocalPort)
			}
		}
	}
	return api.OpenRequest{Scope: s.request.Scope, Command: "dashboard", Detached: true, Forwards: []api.ForwardRequest{f}}, nil
}

// Copy is a text for a forward's clients.
type Copy struct {
	Label string `json:"label"`
	Text  string `json:"text"`
}

// Copies returns the addresses and connection strings for a forward's clients, as `bastion url` prints them with the settings.
// The reader adds user and password.
func Copies(f api.Forward, s config.Settings) []Copy {
	out := []Copy{{"Address", f.Listen}}
	if f.Kind == api.KindProxy {
		return append(out, Copy{"SOCKS", "socks5h://" + f.Listen}, Copy{"HTTP proxy", "http://" + f.Listen})
	}
	d, err := dsn.New(f.Name, f, s)
	if err != nil { // it does not listen yet
		return out
	}
	for _, format := range dsn.Formats() {
		if text, ok := format.Of(d); ok {
			out = append(out, Copy{format.Label, text})
		}
	}
	return out
}
