package awssdk

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// sdkCaches are the directories in the user's home in which the AWS SDK replaces files when it renews credentials.
var sdkCaches = []string{".aws/sso/cache", ".aws/login/cache"}

// tokenFile matches a token file's name: a hash of the session's name.
var tokenFile = pattern.Lazy(`^([0-9a-f]{40}|[0-9a-f]{64})\.json$`)

// isToken reports whether the SDK wrote a file.
func isToken(name string, text []byte) bool {
	var token struct {
		AccessToken json.RawMessage `json:"accessToken"`
	}
	return tokenFile().MatchString(name) && json.Unmarshal(text, &token) == nil && len(token.AccessToken) > 0
}

// givingBack is a credentials provider for root with another user's home directory. It makes that user the owner of the files
// that the SDK wrote there. Otherwise the AWS CLI could not read them.
type givingBack struct{ aws.CredentialsProvider }

// Retrieve implements aws.CredentialsProvider. It ignores a failure to change the files, because the credentials are good.
func (g givingBack) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := g.CredentialsProvider.Retrieve(ctx)
	if home, homeErr := os.UserHomeDir(); homeErr == nil {
		for _, dir := range sdkCaches {
			_ = files.GiveBack(filepath.Join(home, filepath.FromSlash(dir)), isToken)
		}
	}
	return c, err
}
