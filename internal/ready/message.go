package ready

import (
	"encoding/json"
	"net"
	"os"
	"strconv"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/process"
)

// Message says where forwards listen. docs/ci.md documents it.
type Message struct {
	PID      int       `json:"pid"`   // the command that has the forwards
	Start    string    `json:"start"` // its start time, in the system's own unit; "": unknown
	Forwards []Forward `json:"forwards"`
}

// Forward is an open forward.
type Forward struct {
	Name    string   `json:"name"`
	Kind    api.Kind `json:"kind"`
	Target  string   `json:"target,omitempty"` // host:port as the bastion sees it; empty for a proxy
	Listen  string   `json:"listen"`           // address and port
	Address string   `json:"address"`
	Port    int      `json:"port"`
	Engine  string   `json:"engine,omitempty"`
	TLS     bool     `json:"tls"` // the target accepts only TLS
}

// NewMessage returns the message of this process's forwards.
func NewMessage(forwards []api.Forward) Message {
	start, err := process.StartTime(os.Getpid())
	if err != nil {
		start = ""
	}
	m := Message{PID: os.Getpid(), Start: start, Forwards: make([]Forward, len(forwards))}
	for i, f := range forwards {
		out := Forward{Name: f.Name, Kind: f.Kind, Target: f.Target, Listen: f.Listen, Engine: f.Engine, TLS: f.TLS}
		if host, port, err := net.SplitHostPort(f.Listen); err == nil {
			out.Address = host
			out.Port, _ = strconv.Atoi(port) // a listener's
		}
		m.Forwards[i] = out
	}
	return m
}

// line returns the message as one line.
func (m Message) line() ([]byte, error) {
	data, err := json.Marshal(m)
	return append(data, '\n'), err
}

// alive reports whether the message's command still runs.
func (m Message) alive() bool {
	if m.PID <= 0 || m.PID == os.Getpid() {
		return false
	}
	start, err := process.StartTime(m.PID)
	if err != nil || m.Start == "" {
		return process.Exists(m.PID)
	}
	return start == m.Start
}
