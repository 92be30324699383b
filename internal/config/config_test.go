package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/adrg/xdg"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// environ is an environment for Load.
func environ(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	s, err := Load(Source{LookupEnv: environ(), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if s.Bastion.Cluster != "bastion" || s.Bastion.StartTimeout != 5*time.Minute || !s.Local.RememberHostKeys || s.Bastion.AssignPublicIP ||
		s.Link.Sessions != 8 || s.Link.SessionMaxAge != 50*time.Minute || s.Link.Linger != 30*time.Minute {
		t.Errorf("unexpected defaults: %+v", s)
	}
	if diff := cmp.Diff(map[string]string{"bastion": "true"}, s.Bastion.SubnetTags); diff != "" {
		t.Errorf("subnet_tags: %s", diff)
	}
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, FileName), "cluster: of-file\nregion: of-file\nprofile: of-file\n")
	s, err := Load(Source{
		Flags:     map[string]string{"cluster": "of-flag"},
		LookupEnv: environ("BASTION_CLUSTER=of-env", "BASTION_REGION=of-env", "BASTION_PROFILE="),
		File:      filepath.Join(dir, FileName),
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Bastion.Cluster != "of-flag" || s.AWS.Region != "of-env" || s.AWS.Profile != "of-file" || s.Bastion.Container != "bastion" {
		t.Errorf("cluster %q region %q profile %q container %q", s.Bastion.Cluster, s.AWS.Region, s.AWS.Profile, s.Bastion.Container)
	}
}

// Each setting must be settable in each of its three spellings, with the same outcome.
func TestEverySettingHasThreeSpellings(t *testing.T) {
	samples := map[string]string{
		"grant_lifetime": "2h", "output": "json", "target": "i-0123", "ssh_host_key": "ssh-ed25519 AAAA", "ssh_port": "2222",
		"permit": "a.example:1,b.example:2", "runtime_dir": "/run/x", "state_dir": "/var/x", "ssh_identity": "/home/x/key",
		"hosts_file": "/etc/x", "tls_ca": "/etc/ca",
		"task_size": "large", "task_cpu": "2048", "task_memory": "8192", "task_capacity": "spot",
		"sessions": "16", "session_max_age": "20m", "session_document": "AWS-StartPortForwardingSession", "redis_cluster": "follow", "proxy_cidrs": "10.0.0.0/8,fd00::/8", "proxy_auth_file": "/home/x/auth", "metrics_listen": "127.0.0.1:9464", "metrics_token_file": "/run/x/token",
	}
	for _, setting := range All() {
		if setting.Key == environmentKey { // a file must have it; see TestPrecedenceOfTheEnvironment
			continue
		}
		text, ok := samples[setting.Key]
		if !ok {
			switch setting.kind.(type) {
			case typed[string]:
				text = "word"
			case typed[bool]:
				text = map[string]string{"true": "false", "false": "true"}[setting.Default]
			case typed[int]:
				text = "77"
			case typed[float64]:
				text = "0.77"
			case typed[time.Duration]:
				text = "7s"
			case typed[[]string]:
				text = "one,two"
			case typed[map[string]string]:
				text = "k=v,l=w"
			}
		}
		base := map[string]string{
			"reconnect_max": "7s", "reconnect_min": "1s", "ssh_host_key": "ssh-ed25519 AAAA", "metrics_token_file": "/run/token",
		}
		if setting.Key == "task_memory" {
			base["task_cpu"] = "2048"
		}
		delete(base, setting.Key)
		var envs []string
		for k, v := range base {
			envs = append(envs, Lookup(k).Env()+"="+v)
		}
		dir := t.TempDir()
		byFlag, err := Load(Source{Flags: map[string]string{setting.Key: text}, LookupEnv: environ(envs...), Dir: dir})
		if err != nil {
			t.Errorf("%s by flag: %v", setting.Key, err)
			continue
		}
		byEnv, err := Load(Source{LookupEnv: environ(append(envs, setting.Env()+"="+text)...), Dir: dir})
		if err != nil {
			t.Errorf("%s by %s: %v", setting.Key, setting.Env(), err)
			continue
		}
		writeFile(t, filepath.Join(dir, FileName), setting.Key+": "+text+"\n")
		byFile, err := Load(Source{LookupEnv: environ(envs...), File: filepath.Join(dir, FileName)})
		if err != nil {
			t.Errorf("%s by file: %v", setting.Key, err)
			continue
		}
		byFile.File = ""
		if diff := cmp.Diff(byFlag, byEnv, addresses); diff != "" {
			t.Errorf("%s: flag and environment differ: %s", setting.Key, diff)
		}
		if diff := cmp.Diff(byFlag, byFile, addresses); diff != "" {
			t.Errorf("%s: flag and file differ: %s", setting.Key, diff)
		}
		without, err := Load(Source{LookupEnv: environ(envs...), Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if cmp.Equal(byFlag, without, addresses) {
			t.Errorf("%s=%s changes nothing", setting.Key, text)
		}
	}
}

func TestFileIsFoundUpwardsThenInXDG(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "a", "b")
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	xdg.Reload()
	t.Cleanup(xdg.Reload)
	load := func() Settings {
		t.Helper()
		s, err := Load(Source{LookupEnv: environ(), Dir: deep})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if got := load(); got.File != "" {
		t.Errorf("found %q where there is none", got.File)
	}
	writeFile(t, filepath.Join(home, "bastion", "config.yaml"), "cluster: xdg\n")
	if got := load(); got.Bastion.Cluster != "xdg" {
		t.Errorf("cluster %q, want that of the XDG file", got.Bastion.Cluster)
	}
	writeFile(t, filepath.Join(root, FileName), "cluster: upwards\n")
	if got := load(); got.Bastion.Cluster != "upwards" {
		t.Errorf("cluster %q, want that of the file upwards", got.Bastion.Cluster)
	}
	writeFile(t, filepath.Join(root, "other.yaml"), "cluster: named\n")
	s, err := Load(Source{LookupEnv: environ("BASTION_CONFIG=" + filepath.Join(root, "other.yaml")), Dir: deep})
	if err != nil || s.Bastion.Cluster != "named" {
		t.Errorf("cluster %q, %v; want that of BASTION_CONFIG", s.Bastion.Cluster, err)
	}
}

func TestPathsAreRelativeToTheFile(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, FileName), "target: i-1\nssh_host_key: keys/known_hosts\nssh_identity: ~/key\n")
	s, err := Load(Source{LookupEnv: environ("HOME=/home/x"), File: filepath.Join(dir, FileName)})
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "keys", "known_hosts"); s.SSHD.HostKey != want {
		t.Errorf("ssh_host_key %q, want %q", s.SSHD.HostKey, want)
	}
	if want := filepath.FromSlash("/home/x/key"); s.SSHD.Identity != want {
		t.Errorf("ssh_identity %q, want %q", s.SSHD.Identity, want)
	}
}

func TestParseTargets(t *testing.T) {
	f, err := Parse("bastion.yaml", []byte(`
targets:
  orders: rds:orders
  cache:prod: x
`))
	if err == nil {
		t.Fatalf("a name with a colon was accepted: %+v", f)
	}
	f, err = Parse("bastion.yaml", []byte(`
targets:
  orders: rds:orders
  sessions:
    target: cache:sessions
    local_port: 16379
  wiki: wiki.corp.internal:443
`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Target{
		"orders":   {Name: "orders", Spec: "rds:orders", Where: "bastion.yaml:3:11"},
		"sessions": {Name: "sessions", Spec: "cache:sessions", LocalPort: 16379, Where: "bastion.yaml:5:5"},
		"wiki":     {Name: "wiki", Spec: "wiki.corp.internal:443", Where: "bastion.yaml:7:9"},
	}
	if diff := cmp.Diff(want, f.Targets, cmpopts.IgnoreUnexported(Target{})); diff != "" {
		t.Error(diff)
	}
}

func TestParseErrorsNameThePlace(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"typo", "cluster: x\nclutser: y\n", `f.yaml:2:1: unknown key "clutser"; did you mean "cluster"?`},
		{"dash for underscore", "start-timeout: 1m\n", `f.yaml:1:1: unknown key "start-timeout"; did you mean "start_timeout"?`},
		{"unknown, nothing near", "frobnicate: 1\n", `f.yaml:1:1: unknown key "frobnicate"`},
		{"typo in a target", "targets:\n  a:\n    traget: rds:a\n", `f.yaml:3:5: unknown key "traget"; did you mean "target"?`},
		{"no unit", "cluster: c\nstart_timeout: 30\n", `f.yaml:2:16: start_timeout: "30" has no unit; write for example 30s or 30m`},
		{"not a duration", "keepalive: soon\n", `f.yaml:1:12: keepalive: "soon" is not a duration such as 90s, 5m or 1h30m`},
		{"negative", "keepalive: -1s\n", `f.yaml:1:12: keepalive: -1s is not positive`},
		{"port", "ssh_port: 70000\n", `f.yaml:1:11: ssh_port: 70000 is not between 1 and 65535`},
		{"bool", "assign_public_ip: maybe\n", `f.yaml:1:19: assign_public_ip: "maybe" is neither true nor false`},
		{"list for a word", "cluster: [a, b]\n", `f.yaml:1:10: cluster: expected one value`},
		{"word for a map", "subnet_tags: x\n", `f.yaml:1:14: subnet_tags: "x" is not KEY=VALUE`},
		{"twice", "cluster: a\ncluster: b\n", `f.yaml:2:1: mapping key "cluster" already defined at [1:1]`},
		{"not a mapping", "- a\n", `f.yaml:1:1: the configuration must be a mapping of keys to values (key: value)`},
		{"alias", "cluster: &a x\nregion: *a\n", `f.yaml:1:10: cluster: expected one value`},
		{"second document", "cluster: a\n---\ncluster: b\n", `f.yaml:3:8: a second document; one file holds one configuration`},
		{"target without value", "targets:\n  a:\n", `f.yaml:2:3: targets: a has no value; say rds:ID, cache:ID or host:port`},
		{"target port", "targets:\n  a: {target: rds:a, local_port: 0}\n", `f.yaml:2:34: targets: a: local_port: 0 is not between 1 and 65535`},
		{"target named by digits", "targets:\n  1x: rds:a\n  \"12\": rds:b\n", `f.yaml:3:3: targets: "12" cannot be a name: use letters, digits, '-' and '_', not digits alone`},
		{
			"target with a long name", "targets: {" + strings.Repeat("a", 64) + ": rds:a}\n",
			`f.yaml:1:11: targets: "aaaaaaaaaaaaaaaaaaaa"... cannot be a name: it has 64 bytes, more than 63`,
		},
		{"target with a space behind", "targets: {a: 'rds:a '}\n", `f.yaml:1:14: targets: a: "rds:a " is not a target; say rds:ID, cache:ID or host:port`},
		{"target named rds", "targets: {rds: rds:a}\n", `f.yaml:1:11: targets: "rds" cannot be a name: it is a kind of target`},
		{"sessions", "sessions: 17\n", `f.yaml:1:11: sessions: 17 is not between 1 and 16`},
		{"no session", "sessions: 0\n", `f.yaml:1:11: sessions: 0 is not between 1 and 16`},
		{"session age", "session_max_age: 30s\n", `f.yaml:1:18: session_max_age: 30s is not between 1m and 24h`},
		{"linger", "linger: 0s\n", `f.yaml:1:9: linger: 0s is not between 1s and 24h`},
		{"lifetime", "grant_lifetime: 24h\n", `f.yaml:1:17: grant_lifetime: 24h is not between 1m and 12h`},
		{"ssm target", "target: web\n", `f.yaml:1:9: target: "web" is not an SSM target: i-..., mi-... or ecs:<cluster>_<task id>_<runtime id>`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(tt.in))
			if err == nil {
				t.Fatal("accepted")
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%T is not an *Error", err)
			}
		})
	}
}

// A Name tag of an instance may have spaces.
func TestTargetWithSpaces(t *testing.T) {
	const spec = "ec2:Build Server:3389"
	f, err := Parse("f.yaml", []byte("targets: {build: '"+spec+"'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Targets["build"].Spec; got != spec {
		t.Errorf("got %q, want %q", got, spec)
	}
}

func TestSyntaxErrorNamesThePlace(t *testing.T) {
	_, err := Parse("f.yaml", []byte("cluster: a\nregion: [b\n"))
	if err == nil || !regexp.MustCompile(`^f\.yaml:\d+:\d+: \S`).MatchString(err.Error()) {
		t.Errorf("got %v", err)
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name  string
		flags map[string]string
		env   string
		file  string
		want  string
	}{
		{name: "flag", flags: map[string]string{"ssh_port": "x"}, want: `--ssh-port: "x" is not a whole number`},
		{name: "env", env: "BASTION_SSH_PORT=0", want: `BASTION_SSH_PORT: 0 is not between 1 and 65535`},
		{name: "env list", env: "BASTION_SUBNETS=a,,b", want: `BASTION_SUBNETS: "a,,b" has an empty item`},
		{name: "empty by flag", flags: map[string]string{"cluster": ""}, want: `--cluster: must not be empty`},
		{
			name: "unpinned", flags: map[string]string{"target": "i-1"},
			want: `target needs ssh_host_key: the host key of the OpenSSH server, which is never trusted on first use`,
		},
		{name: "permit", flags: map[string]string{"permit": "a"}, want: `--permit: "a" is not HOST:PORT`},
		{
			name: "reconnect", flags: map[string]string{"reconnect_min": "1m"},
			want: `reconnect_min (1m0s) is more than reconnect_max (30s)`,
		},
		{
			name: "no such file", file: filepath.Join(dir, "none.yaml"),
			want: `read the configuration: ` + filepath.Join(dir, "none.yaml") + `: no such file or directory`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(Source{Flags: tt.flags, LookupEnv: environ(tt.env), File: tt.file, Dir: dir})
			if err == nil {
				t.Fatal("accepted")
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
			if kind := fail.KindOf(err); kind != fail.Usage {
				t.Errorf("kind %v, want usage", kind)
			}
			if fail.NextOf(err) == "" {
				t.Error("no next step")
			}
		})
	}
}

func TestNearest(t *testing.T) {
	known := []string{"cluster", "container", "region", "o"}
	for word, want := range map[string]string{
		"clustre": "cluster", "Cluster": "cluster", "contaner": "container", "regoin": "region", "x": "", "zzzzzz": "", "": "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

// FuzzParse checks that no file makes Parse panic, and that errors name a place within the file. An accepted file can be loaded, or
// fails only in a check across settings.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "cluster: a\n", "targets:\n  a: rds:b\n  c: {target: d:1, local_port: 5}\n", "subnets: [a, b]\n",
		"subnet_tags: {a: b}\n", "start_timeout: 1m\n", "# only a comment\n", "---\n...\n", "a: &x 1\nb: *x\n",
		"tags:\n  - a=b\n", "ssh_host_key: |\n  ssh-ed25519 AAAA\n", "? a\n: b\n", "<<: {cluster: x}\n", "!!str cluster: x\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("f", data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Column < 1 || e.Msg == "" {
				t.Fatalf("error without a place: %#v", err)
			}
			return
		}
		for key, v := range file.values {
			if err := Lookup(key).kind.set(new(Settings), v.text); err != nil {
				t.Fatalf("accepted %s: %q, which cannot be set: %v", key, v.text, err)
			}
		}
		for name, target := range file.Targets {
			if name == "" || target.Spec == "" || target.LocalPort < 0 || target.LocalPort > 65535 {
				t.Fatalf("accepted target %q: %+v", name, target)
			}
		}
	})
}

// A file that nests so deeply that the parser would be busy for minutes is refused before; what people write is not.
func TestNestingIsBounded(t *testing.T) {
	for _, open := range []string{"[", "{a: ", "- ", "[{", "- [", "[ # ]\n "} {
		_, err := Parse("f", []byte("region:\n "+strings.Repeat(open, 10000)))
		if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Msg, "nested too deeply") || e.Line < 2 {
			t.Errorf("%q: %v", open, err)
		}
	}
	var b strings.Builder
	b.WriteString("# " + strings.Repeat("[ - ", 10000) + "\ntargets:\n")
	for i := range 2000 {
		fmt.Fprintf(&b, "  t%d: \"[fd00::%x]:5432\"\n", i, i)
	}
	b.WriteString("subnets:\n" + strings.Repeat("  - subnet-0\n", 2000))
	if f, err := Parse("f", []byte(b.String())); err != nil || len(f.Targets) != 2000 {
		t.Error(err)
	}
}

// Editors on Windows put a byte order mark before a text, or write UTF-16.
func TestEncodings(t *testing.T) {
	const text = "# team\ncluster: x\n"
	for _, data := range []string{text, "\ufeff" + text, "\ufeff" + strings.ReplaceAll(text, "\n", "\r\n"), "\ufeff"} {
		f, err := Parse(FileName, []byte(data))
		if err != nil || len(data) > 3 && f.values["cluster"].text != "x" {
			t.Errorf("%q: %v", data, err)
		}
	}
	wrong := "\ufeffclustr: x\n"
	if _, err := Parse(FileName, []byte(wrong)); err == nil || !strings.HasPrefix(err.Error(), FileName+":1:1: unknown key \"clustr\"") {
		t.Errorf("%q: %v", wrong, err)
	}
	var little, big strings.Builder
	for _, r := range text {
		little.Write([]byte{byte(r), 0})
		big.Write([]byte{0, byte(r)})
	}
	for _, data := range []string{little.String(), big.String(), "\xff\xfe" + little.String(), "\xfe\xff" + big.String()} {
		path := filepath.Join(t.TempDir(), FileName)
		writeFile(t, path, data)
		_, err := Load(Source{LookupEnv: environ(), File: path})
		if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "UTF-16") || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", data, err)
		}
	}
}
