package node

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/internal/pattern"
)

// The documents that a node serves.
const (
	docSSH     = "AWS-StartSSHSession"
	docForward = "AWS-StartPortForwardingSession"
)

const (
	sessionTypePort     = "Port"
	localPortForwarding = "LocalPortForwarding"
	documentSchema      = "1.0"
)

// Task is a session that the service asks the node to serve.
type Task struct {
	SessionID string
	Owner     string // the ARN of the caller of StartSession, as AWS says
	Document  string
	Port      int

	forward    bool // the document's type is LocalPortForwarding
	properties json.RawMessage
}

// refusal is why a node does not serve a session, in the agent's words where it has some. They reach the user in channel_closed.
type refusal string

func (r refusal) Error() string { return string(r) }

// taskMessage is the payload of a task message. Content has the task itself, as JSON in a string.
type taskMessage struct {
	Content string
	TaskID  string `json:"TaskId"`
	Topic   string
}

// taskContent is the task.
type taskContent struct {
	DocumentName    string
	DocumentContent struct {
		SchemaVersion string                       `json:"schemaVersion"`
		SessionType   string                       `json:"sessionType"`
		Parameters    map[string]documentParameter `json:"parameters"`
		Properties    map[string]any               `json:"properties"`
	}
	SessionID    string `json:"SessionId"`
	Parameters   map[string]any
	SessionOwner string
}

type documentParameter struct {
	Default any `json:"default"`
}

// ParseTask parses the payload of a task message of type interactive_shell. If the error comes with a Task that has a SessionID, the
// service gets the error as the session's outcome.
func ParseTask(payload []byte) (Task, error) {
	var msg taskMessage
	if err := json.Unmarshal(payload, &msg); err != nil {
		return Task{}, fmt.Errorf("task message: %w", err)
	}
	var c taskContent
	if err := json.Unmarshal([]byte(msg.Content), &c); err != nil {
		return Task{}, fmt.Errorf("task message: its content: %w", err)
	}
	if c.SessionID == "" || strings.Trim(c.SessionID, ".") == "" || strings.ContainsAny(c.SessionID, "/\\?#%") {
		return Task{}, fmt.Errorf("task message with the session id %.100q", c.SessionID) // it becomes part of a URL
	}
	t := Task{SessionID: c.SessionID, Owner: c.SessionOwner, Document: c.DocumentName}
	err := t.accept(&c)
	return t, err
}

// accept checks what a task asks for, and takes over its port.
func (t *Task) accept(c *taskContent) error {
	doc := &c.DocumentContent
	switch {
	case doc.SchemaVersion != documentSchema:
		return refusal(fmt.Sprintf("Document with schema version %s is not supported by this version of ssm agent, "+
			"please update to latest version", doc.SchemaVersion))
	case doc.SessionType != sessionTypePort:
		return refusal(fmt.Sprintf("Plugin with name %s is not supported in current platform. Step name: %[1]s", doc.SessionType))
	case c.DocumentName != docSSH && c.DocumentName != docForward:
		return refusal(fmt.Sprintf("Document %s is not supported by this node", c.DocumentName))
	}
	properties := c.resolve()
	if host, _ := properties["host"].(string); host != "" {
		return refusal(fmt.Sprintf("Forwarding to IP address %s is forbidden.", host))
	}
	number, _ := properties["portNumber"].(string)
	if number == "" {
		return refusal(fmt.Sprintf("Port number is empty in session properties. %v", properties))
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 {
		return refusal(fmt.Sprintf("Unable to connect to specified port: invalid port %q", number))
	}
	t.Port = int(port)
	t.forward = properties["type"] == localPortForwarding
	t.properties, err = json.Marshal(properties)
	return err
}

// placeholder stands for a parameter in a document's properties.
var placeholder = pattern.Lazy(`\{\{\s*([A-Za-z0-9]+)\s*\}\}`)

// resolve returns the document's properties with the parameters in their places. Properties of a port are strings; others stay as they
// are.
func (c *taskContent) resolve() map[string]any {
	values := map[string]string{}
	for name, p := range c.DocumentContent.Parameters {
		values[name] = text(p.Default)
	}
	for name, v := range c.Parameters {
		values[name] = text(v)
	}
	properties := maps.Clone(c.DocumentContent.Properties)
	for name, v := range properties {
		if s, ok := v.(string); ok {
			properties[name] = replace(placeholder(), s, values)
		}
	}
	return properties
}

// replace puts values into the placeholders in s. It leaves unknown ones.
func replace(placeholder *regexp.Regexp, s string, values map[string]string) string {
	return placeholder.ReplaceAllStringFunc(s, func(found string) string {
		if v, ok := values[placeholder.FindStringSubmatch(found)[1]]; ok {
			return v
		}
		return found
	})
}

// text returns a parameter's value: StartSession takes lists, of which only the first element counts for a port.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		if len(v) > 0 {
			return text(v[0])
		}
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}
