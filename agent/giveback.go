package agent

import (
	"context"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/files"
)

// sdkCaches are the directories of the user's home in which the AWS SDK replaces files when it renews credentials.
var sdkCaches = []string{".aws/sso/cache", ".aws/login/cache"}

// givingBack is a provider of credentials for root with another user's home directory. What the SDK has written there becomes that
// user's: the AWS CLI could not read root's files.
type givingBack struct{ aws.CredentialsProvider }

// Retrieve implements aws.CredentialsProvider. The credentials are good whatever becomes of the files.
func (g givingBack) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := g.CredentialsProvider.Retrieve(ctx)
	if home, homeErr := os.UserHomeDir(); homeErr == nil {
		for _, dir := range sdkCaches {
			_ = files.GiveBack(filepath.Join(home, filepath.FromSlash(dir)))
		}
	}
	return c, err
}
