//go:build !carry

package carried

import "embed"

var files embed.FS
