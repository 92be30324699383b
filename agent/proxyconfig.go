package agent

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/tunnel"
)

// maxProxyAuth bounds a user name or password, in bytes (SOCKS5, RFC 1929).
const maxProxyAuth = 255

// ProxyConfig returns the proxy's configuration from the settings. It reads the password file; the result is the only copy of
// its content.
func ProxyConfig(s config.Settings) (tunnel.ProxyConfig, error) {
	cfg := tunnel.ProxyConfig{Domains: s.Proxy.Domains, CIDRs: s.Proxy.CIDRs}
	if s.Proxy.AuthFile == "" {
		return cfg, nil
	}
	var err error
	if cfg.User, cfg.Password, err = readProxyAuth(s.Proxy.AuthFile); err != nil {
		return tunnel.ProxyConfig{}, fail.New(fail.Usage, "read proxy_auth_file", err,
			"write one line USER:PASSWORD to the file, and let nobody else read it: chmod 600 "+s.Proxy.AuthFile)
	}
	return cfg, nil
}

// readProxyAuth reads the line USER:PASSWORD from a file that only its owner may read.
func readProxyAuth(path string) (user, password string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", "", err
	}
	switch {
	case info.IsDir():
		return "", "", fmt.Errorf("%s is a directory", path)
	case runtime.GOOS != "windows" && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0: // Windows has no such mode bits
		return "", "", fmt.Errorf("others can read %s (mode %04o)", path, info.Mode().Perm())
	}
	head, err := io.ReadAll(io.LimitReader(f, int64(len("\ufeff")+2*maxProxyAuth+3)))
	if err != nil {
		return "", "", err
	}
	if head, err = files.Text(head); err != nil {
		return "", "", fmt.Errorf("%s: %w", path, err)
	}
	line, _, _ := strings.Cut(string(head), "\n")
	user, password, ok := strings.Cut(strings.TrimRight(line, "\r"), ":")
	switch {
	case !ok || user == "" || password == "":
		return "", "", fmt.Errorf("%s is not USER:PASSWORD", path)
	case len(user) > maxProxyAuth || len(password) > maxProxyAuth:
		return "", "", fmt.Errorf("the user or the password in %s has more than %d bytes", path, maxProxyAuth)
	}
	return user, password, nil
}
