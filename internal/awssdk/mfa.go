package awssdk

import (
	"context"
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
)

// MFADevice returns the MFA device that a role of the current profile needs; "" if none does.
func MFADevice(ctx context.Context, profile string) string {
	return (*Env)(nil).mfaDevice(ctx, profile)
}

func (e *Env) mfaDevice(ctx context.Context, profile string) string {
	for _, p := range e.inUse(ctx, profile) {
		if p.MFASerial != "" {
			return p.MFASerial
		}
	}
	return ""
}

// MFA prompts for MFA codes. A code works once, so MFA keeps the resulting credentials for the process's other calls of Load.
type MFA struct {
	Ask func(device string) (code string, err error)

	mu     sync.Mutex
	opened map[string]aws.CredentialsProvider // by profile
}

// options returns the option that makes the SDK prompt for codes, or use the credentials that an earlier code obtained. A nil
// *MFA cannot prompt.
func (m *MFA) options(profile string) []sdk {
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		if opened := m.opened[profile]; opened != nil {
			return []sdk{awsconfig.WithCredentialsProvider(opened)}
		}
	}
	return []sdk{awsconfig.WithAssumeRoleCredentialOptions(func(o *stscreds.AssumeRoleOptions) {
		o.TokenProvider = func() (string, error) {
			device := aws.ToString(o.SerialNumber)
			if m == nil {
				return "", fmt.Errorf("the role needs a code of the MFA device %s, for which only a command can ask", device)
			}
			return m.Ask(device)
		}
	})}
}

// keep keeps a profile's credentials.
func (m *MFA) keep(profile string, opened aws.CredentialsProvider) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.opened == nil {
		m.opened = make(map[string]aws.CredentialsProvider)
	}
	m.opened[profile] = opened
}
