package gateway

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// The message that gives a node a session, with the keys of AWS's: a JSON text inside of JSON.
type (
	taskMessage struct {
		SchemaVersion int    `json:"schemaVersion"`
		TaskID        string `json:"taskId"` // not the session's
		Topic         string `json:"topic"`
		Content       string `json:"content"`
	}
	task struct {
		RunAsUser       string
		Parameters      map[string]string
		DocumentContent documentContent
		SessionID       string `json:"SessionId"`
		DocumentName    string
		SessionOwner    string // the caller's ARN
	}
	documentContent struct {
		SchemaVersion string                       `json:"schemaVersion"`
		Inputs        map[string]any               `json:"inputs"`
		Description   string                       `json:"description"`
		SessionType   string                       `json:"sessionType"`
		Parameters    map[string]documentParameter `json:"parameters"`
		Properties    any                          `json:"properties,omitempty"`
	}
	documentParameter struct {
		Type           string `json:"type"`
		Description    string `json:"description"`
		AllowedPattern string `json:"allowedPattern,omitempty"`
		Default        string `json:"default,omitempty"`
	}
)

// task returns the message that gives the session to a node. The document's properties name the parameters, whose values the node
// fills in.
func (s *session) task() []byte {
	spec := &s.spec
	content, err := json.Marshal(task{
		Parameters: spec.Parameters, DocumentContent: s.document(), SessionID: spec.ID, DocumentName: spec.Document, SessionOwner: spec.Owner,
	})
	if err != nil {
		panic("gateway: " + err.Error()) // strings
	}
	// AWS's agent ignores these two names, which somebody has seen from AWS.
	return message(typeTask, uuid.New(), taskMessage{1, "test_task", "test_topic", string(content)})
}

// document returns the content of the session's document.
func (s *session) document() documentContent {
	minutes := int((s.gw.cfg.IdleTimeout + time.Minute - 1) / time.Minute)
	d := documentContent{
		SchemaVersion: "1.0", Parameters: map[string]documentParameter{},
		// Session Manager's preferences.
		Inputs: map[string]any{
			"s3BucketName": "", "s3KeyPrefix": "", "s3EncryptionEnabled": true,
			"cloudWatchLogGroupName": "", "cloudWatchEncryptionEnabled": true, "cloudWatchStreamingEnabled": true,
			"idleSessionTimeout": strconv.Itoa(minutes), "maxSessionDuration": "", "kmsKeyId": s.spec.KMSKeyID,
			"runAsEnabled": false, "runAsDefaultUser": "", "shellProfile": map[string]string{"windows": "", "linux": ""},
		},
	}
	switch s.spec.Document {
	case DocECSExec:
		commands := map[string]any{"commands": s.spec.Command, "runAsElevated": true}
		d.SessionType, d.Description = sessionTypeCommand, "Document to run an interactive command in a container"
		d.Properties = map[string]any{"linux": commands, "windows": commands}
		return d
	case DocShell:
		d.SessionType, d.Description = sessionTypeShell, "Document to hold regional settings for Session Manager"
		return d
	}
	d.SessionType, d.Description = sessionTypePort, "Document to start port forwarding session over Session Manager"
	properties := map[string]string{"portNumber": "{{ portNumber }}"}
	d.Parameters["portNumber"] = documentParameter{Type: "String", Description: "(Optional) Port number of the server", Default: "80"}
	switch s.spec.Document {
	case DocSSH:
		d.Description = "Document to start SSH connection over Session Manager"
		d.Parameters["portNumber"] = documentParameter{Type: "String", Description: "(Optional) Port number of SSH server", Default: "22"}
	case DocPortRemote:
		properties["host"] = "{{ host }}"
		d.Parameters["host"] = documentParameter{Type: "String", Description: "Hostname or IP address of the destination server"}
		fallthrough
	default:
		properties["type"], properties["localPortNumber"] = "LocalPortForwarding", "{{ localPortNumber }}"
		d.Parameters["localPortNumber"] = documentParameter{
			Type: "String", Description: "(Optional) Port number on local machine to forward traffic to", Default: "0",
		}
	}
	d.Properties = properties
	return d
}
