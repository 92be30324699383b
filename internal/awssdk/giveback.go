package awssdk

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/files"
)

// sdkCaches are the directories of the user's home in which the AWS SDK replaces files when it renews credentials.
var sdkCaches = []string{".aws/sso/cache", ".aws/login/cache"}

// tokenFile is the name of a file in these: a hash of the session's name.
var tokenFile = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})\.json$`)

// isToken reports whether a file is one that the SDK writes there.
func isToken(name string, text []byte) bool {
	var token struct {
		AccessToken json.RawMessage `json:"accessToken"`
	}
	return tokenFile.MatchString(name) && json.Unmarshal(text, &token) == nil && len(token.AccessToken) > 0
}

// givingBack is a provider of credentials for root with another user's home directory. What the SDK has written there becomes that
// user's: the AWS CLI could not read root's files.
type givingBack struct{ aws.CredentialsProvider }

// Retrieve implements aws.CredentialsProvider. The credentials are good whatever becomes of the files.
func (g givingBack) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := g.CredentialsProvider.Retrieve(ctx)
	if home, homeErr := os.UserHomeDir(); homeErr == nil {
		for _, dir := range sdkCaches {
			_ = files.GiveBack(filepath.Join(home, filepath.FromSlash(dir)), isToken)
		}
	}
	return c, err
}
