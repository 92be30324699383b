package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adrg/xdg"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// projectKeys are the settings that a project file gives without trust. A new setting is not among them before somebody has
// thought about it.
var projectKeys = []string{
	"environment", "region", "cluster", "subnets", "subnet_tags", "security_groups", "security_group_tags", "assign_public_ip", "tags",
	"task_size", "task_cpu", "task_memory", "task_capacity",
	"aws_timeout", "start_timeout", "grant_lifetime", "permit", "sessions", "session_max_age", "session_document", "linger", "connect_timeout", "reconnect_timeout",
	"reconnect_min", "reconnect_max", "keepalive", "hold_max", "hold_timeout", "proxy_domains", "proxy_cidrs", "redis_cluster",
	"no_agent", "price_vcpu_hour", "price_gb_hour", "output", "quiet", "verbose",
}

func TestEverySettingIsClassified(t *testing.T) {
	for _, s := range All() {
		if (s.Trust == Project) != slices.Contains(projectKeys, s.Key) {
			t.Errorf("%s: the table says %v; change the list here with it, once you know what a hostile file does with it", s.Key, s.Trust)
		}
		names := s.path != nil || strings.Contains(s.Value, "FILE") || strings.Contains(s.Value, "DIR") ||
			strings.Contains(s.Value, "COMMAND") || strings.Contains(s.Value, "ADDRESS") || s.Group == GroupSSHD
		if names && s.Trust == Project {
			t.Errorf("%s names a file, a program, an address or a key, and is taken from every project file", s.Key)
		}
	}
	for _, key := range projectKeys {
		if Lookup(key) == nil {
			t.Errorf("there is no setting %s", key)
		}
	}
}

// sample is a value that the setting takes and that is not its default.
func sample(s *Setting) string {
	if text, ok := map[string]string{
		"target": "i-0123", "ssh_port": "2222", "metrics_listen": "127.0.0.1:9464", "agent_idle": "7s", "remember_host_keys": "false", "notify": "false",
	}[s.Key]; ok {
		return text
	}
	if s.IsSwitch() {
		return "true"
	}
	return "word"
}

// Loading refuses a personal setting of a project file, with its place and the command to type, unless an option or a variable
// gives it. It accepts the setting while the file is trusted, until an edit.
func TestPersonalSettingsTakeTrust(t *testing.T) {
	for _, s := range All() {
		if s.Trust == Project {
			continue
		}
		t.Run(s.Key, func(t *testing.T) {
			dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
			path := filepath.Join(dir, FileName)
			base := []string{"BASTION_STATE_DIR=" + state, "BASTION_SSH_HOST_KEY=ssh-ed25519 AAAA", "BASTION_METRICS_TOKEN_FILE=/t"}
			base = slices.DeleteFunc(base, func(kv string) bool {
				return s.Key != "state_dir" && strings.HasPrefix(kv, s.Env()+"=")
			})
			src := Source{LookupEnv: environ(base...), Dir: dir}
			if s.Key == "state_dir" { // where trust is recorded must not be the file's to say
				t.Setenv("XDG_STATE_HOME", state)
				xdg.Reload()
				t.Cleanup(xdg.Reload)
				src.LookupEnv = environ(base[1:]...)
			}
			load := func(text string) error {
				t.Helper()
				writeFile(t, path, text)
				_, err := Load(src)
				return err
			}
			refused := func(err error, say string) {
				t.Helper()
				if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), FileName+":2:") || !strings.Contains(err.Error(), s.Key) ||
					!strings.Contains(err.Error(), say) || !strings.Contains(fail.NextOf(err), "bastion trust "+path) {
					t.Errorf("%v (next: %s)", err, fail.NextOf(err))
				}
			}
			text := "region: eu-central-1\n" + s.Key + ": " + sample(s) + "\n"
			refused(load(text), "have not trusted")

			given := src
			given.Flags = map[string]string{s.Key: sample(s)}
			if _, err := Load(given); err != nil {
				t.Errorf("with the option: %v", err)
			}
			given = src
			given.LookupEnv = environ(append([]string{s.Env() + "=" + sample(s)}, base...)...)
			if _, err := Load(given); err != nil {
				t.Errorf("with the variable: %v", err)
			}
			if s.Default != "" {
				if err := load(s.Key + ": " + s.Default + "\n"); err != nil {
					t.Errorf("its default: %v", err)
				}
			}

			writeFile(t, path, text)
			found, err := OpenProject(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := src.Store().Add(t.Context(), found, time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := load(text); err != nil {
				t.Errorf("trusted: %v", err)
			}
			refused(load(text+"# edited\n"), "has changed since")
			if err := load(text); err != nil {
				t.Errorf("as it was trusted: %v", err)
			}
			if had, err := src.Store().Remove(t.Context(), found.Real); err != nil || !had {
				t.Errorf("removed: %v, %v", had, err)
			}
			refused(load(text), "have not trusted")
		})
	}
}

// The same content elsewhere is not trusted, and neither is the user's trust a matter of how the path is written.
func TestTrustIsOfOnePath(t *testing.T) {
	root, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	const text = "browser: firefox\n"
	for _, dir := range []string{"one", "two"} {
		writeFile(t, filepath.Join(root, dir, FileName), text)
	}
	if runtime.GOOS != "windows" {
		if err := os.Symlink("one", filepath.Join(root, "link")); err != nil {
			t.Fatal(err)
		}
	}
	src := Source{LookupEnv: environ("BASTION_STATE_DIR=" + state)}
	found, err := OpenProject(filepath.Join(root, "one", FileName))
	if err != nil {
		t.Fatal(err)
	}
	if err := src.Store().Add(t.Context(), found, time.Now()); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{"one": true, "link": runtime.GOOS != "windows", "two": false} {
		src.Dir = filepath.Join(root, dir)
		if s, err := Load(src); (err == nil && s.Proxy.Browser == "firefox") != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
	records, err := src.Store().List()
	if err != nil || len(records) != 1 || records[0].Path != found.Real || records[0].SHA256 != found.Sum() {
		t.Errorf("%+v, %v", records, err)
	}
	info, err := os.Stat(filepath.Join(state, storeName))
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A record that others could have written is none, and said so.
func TestTrustStoreOfOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // it has no modes
	}
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	writeFile(t, filepath.Join(dir, FileName), "browser: firefox\n")
	src := Source{LookupEnv: environ("BASTION_STATE_DIR=" + state), Dir: dir}
	found, err := OpenProject(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	if err := src.Store().Add(t.Context(), found, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{usedName, storeName} {
		path := filepath.Join(state, name)
		for text, want := range map[string]string{"{": "unexpected end of JSON input", `{"v":9}`: "it is of version 9"} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(src); fail.KindOf(err) != fail.Usage || !strings.Contains(fmt.Sprint(err), want) ||
				!strings.Contains(fail.NextOf(err), "remove "+path) {
				t.Errorf("%s: %v (next: %s)", name, err, fail.NextOf(err))
			}
		}
		if err := os.Chmod(path, 0o602); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(src); fail.KindOf(err) != fail.Usage || !strings.Contains(fail.NextOf(err), "chmod ") ||
			!strings.Contains(fail.NextOf(err), "remove "+path) {
			t.Errorf("%s: %v (next: %s)", name, err, fail.NextOf(err))
		}
		if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(state, 0o777); err != nil { // the file itself is no cure for its directory
		t.Fatal(err)
	}
	if _, err := Load(src); !strings.Contains(fail.NextOf(err), "chmod go-w "+state) {
		t.Errorf("%v (next: %s)", err, fail.NextOf(err))
	}
}

// A project file that somebody else could have written is passed over for the next one, with a word; it must not break commands.
func TestUntrustedPlaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can make files of other users")
		return
	}
	const mallory = 60912
	for name, spoil := range map[string]func(dir, file string) error{
		"another's":      func(_, f string) error { return os.Chown(f, mallory, mallory) },
		"unreadable":     func(_, f string) error { return errors.Join(os.Chmod(f, 0), os.Chown(f, mallory, mallory)) },
		"writable":       func(_, f string) error { return os.Chmod(f, 0o666) },
		"in an open dir": func(d, _ string) error { return os.Chmod(d, 0o777) },
		"in a sticky":    func(d, _ string) error { return os.Chmod(d, 0o777|os.ModeSticky) },
		"their dir":      func(d, _ string) error { return os.Chown(d, mallory, mallory) },
		"a device":       func(_, f string) error { return errors.Join(os.Remove(f), os.Symlink("/dev/zero", f)) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			writeFile(t, filepath.Join(root, FileName), "cluster: above\n")
			dir := filepath.Join(root, "shared")
			file := filepath.Join(dir, FileName)
			writeFile(t, file, "cluster: planted\nbrowser: planted\n")
			if err := spoil(dir, file); err != nil {
				t.Fatal(err)
			}
			var told []error
			s, err := Load(Source{LookupEnv: environ(), Dir: dir, Ignored: func(err error) { told = append(told, err) }})
			if err != nil || s.Bastion.Cluster != "above" || s.Proxy.Browser != "" {
				t.Errorf("cluster %q, browser %q, %v", s.Bastion.Cluster, s.Proxy.Browser, err)
			}
			if len(told) != 1 || !strings.Contains(told[0].Error(), file+" is not used") || !strings.Contains(fail.NextOf(told[0]), "--config "+file) {
				t.Errorf("told %v", told)
			}
			if name == "a device" {
				return
			}
			if s, err := Load(Source{LookupEnv: environ(), Dir: dir, File: file}); err != nil || s.Proxy.Browser != "planted" {
				t.Errorf("named: %q, %v", s.Proxy.Browser, err)
			}
		})
	}
}

// The user's own file gives every setting, but not if others can write it.
func TestOwnFile(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	xdg.Reload()
	t.Cleanup(xdg.Reload)
	path := filepath.Join(home, "bastion", "config.yaml")
	writeFile(t, path, "browser: firefox\n")
	src := Source{LookupEnv: environ(), Dir: t.TempDir()}
	if s, err := Load(src); err != nil || s.Proxy.Browser != "firefox" {
		t.Errorf("%q, %v", s.Proxy.Browser, err)
	}
	if runtime.GOOS == "windows" {
		return // it has no modes
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(src); fail.KindOf(err) != fail.Usage || !strings.Contains(fail.NextOf(err), "chmod go-w "+path) {
		t.Errorf("%v (next: %s)", err, fail.NextOf(err))
	}
}

// A region is a part of the host names to which credentials are sent: nothing in it may lead to another host.
func TestRegionIsALabel(t *testing.T) {
	for text, ok := range map[string]bool{
		"eu-central-1": true, "us-gov-west-1": true, "eusc-de-east-1": true,
		"evil.example/": false, "x.evil.example#": false, "a@evil.example": false, "a?b": false, "-a": false, "a-": false, "A": false,
		"a b": false, "a\n": false, strings.Repeat("a", 64): false,
	} {
		_, err := Load(Source{LookupEnv: environ(), Dir: t.TempDir(), Flags: map[string]string{"region": text}})
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What the file gives is told in the order of the table, with its places.
func TestGiven(t *testing.T) {
	f, err := Parse("f", []byte("browser: x\nregion: eu-central-1\ncontainer: bastion\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, g := range f.Given() {
		got[g.Where+" "+g.Setting.Key+"="+g.Text] = g.NeedsTrust()
	}
	want := map[string]bool{"f:2:9 region=eu-central-1": false, "f:3:12 container=bastion": false, "f:1:10 browser=x": true}
	if !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
