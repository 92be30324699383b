package agent

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

func TestProxyConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auth")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	s, err := config.FromTexts(map[string]string{
		"proxy_domains": "Corp.internal,*.bücher.example", "proxy_cidrs": "10.0.0.0/8,fd00::1", "proxy_auth_file": file,
	})
	if err != nil {
		t.Fatal(err)
	}
	write("ann:s3cret:with:colons \r\nmore\n", 0o600)
	cfg, err := ProxyConfig(s)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(cfg.Domains, " "); got != "corp.internal *.xn--bcher-kva.example" {
		t.Errorf("domains %s", got)
	}
	if len(cfg.CIDRs) != 2 || cfg.CIDRs[1].String() != "fd00::1/128" {
		t.Errorf("networks %v", cfg.CIDRs)
	}
	if cfg.User != "ann" || cfg.Password != "s3cret:with:colons " {
		t.Errorf("%q %q", cfg.User, cfg.Password)
	}

	write("\ufeffann:s3cret\r\n", 0o600)
	if cfg, err := ProxyConfig(s); err != nil || cfg.User != "ann" || cfg.Password != "s3cret" {
		t.Errorf("with a byte order mark: user %q, %v", cfg.User, err)
	}
	write("\xff\xfea\x00:\x00s\x00", 0o600)
	if _, err := ProxyConfig(s); !errors.Is(err, files.ErrUTF16) {
		t.Errorf("in UTF-16: %v", err)
	}

	bad := func(what string, s config.Settings) {
		t.Helper()
		cfg, err := ProxyConfig(s)
		if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" || cfg.Password != "" {
			t.Errorf("%s: %+v, %v", what, cfg, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error tells the password: %v", what, err)
		}
	}
	for _, text := range []string{"", "\n", "s3cret", ":s3cret", "ann:", strings.Repeat("s3cret", 50) + ":x", "x:" + strings.Repeat("s3cret", 50)} {
		write(text, 0o600)
		bad("file "+text, s)
	}
	if runtime.GOOS != "windows" {
		for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
			write("ann:s3cret", mode)
			bad(mode.String(), s)
		}
	}
	bad("no file", config.Settings{Proxy: config.Proxy{AuthFile: file + "x"}})
	bad("directory", config.Settings{Proxy: config.Proxy{AuthFile: t.TempDir()}})
}
