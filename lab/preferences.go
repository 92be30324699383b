package lab

import (
	"context"
	"encoding/json"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// SessionPreferences are Session Manager's for the account and region, in minutes; empty: none.
type SessionPreferences struct{ Idle, Most string }

// SetSessionPreferences sets the preferences.
func (l *Lab) SetSessionPreferences(p SessionPreferences) {
	l.ssm.mu.Lock()
	defer l.ssm.mu.Unlock()
	l.ssm.preferences = &p
}

type getDocumentInput struct {
	Name string `json:"Name"`
}

func (s *ssm) getDocumentAccess(c *awsapi.Call) []awsapi.Access {
	return []awsapi.Access{{Action: c.Name(), Resource: s.arn("ssm", "document/"+inputOf[getDocumentInput](c).Name)}}
}

// getDocument knows the document with Session Manager's preferences.
func (s *ssm) getDocument(_ context.Context, _ *awsapi.Call, in *getDocumentInput) (any, error) {
	const preferences = "SSM-SessionManagerRunShell"
	s.mu.Lock()
	p := s.preferences
	s.mu.Unlock()
	if in.Name != preferences || p == nil {
		return nil, awsapi.Errorf("InvalidDocument", "Document with name %s does not exist.", in.Name)
	}
	content, err := json.Marshal(map[string]any{
		"schemaVersion": "1.0", "sessionType": "Standard_Stream",
		"inputs": map[string]any{"idleSessionTimeout": p.Idle, "maxSessionDuration": p.Most, "kmsKeyId": s.kmsKey, "runAsEnabled": false},
	})
	type output struct {
		Name           string `json:"Name"`
		Content        string `json:"Content"`
		DocumentType   string `json:"DocumentType"`
		DocumentFormat string `json:"DocumentFormat"`
		Status         string `json:"Status"`
	}
	return output{in.Name, string(content), "Session", "JSON", "Active"}, err
}
