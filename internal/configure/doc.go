// Package configure has the commands that show, choose, check, share and trust configuration: config, use and trust. What a
// configuration is, is in internal/config; the shared one is in internal/shared.
package configure
