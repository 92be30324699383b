//go:build carry

package carried

import "embed"

//go:embed bastiond-linux-amd64.gz bastiond-linux-arm64.gz
var files embed.FS
