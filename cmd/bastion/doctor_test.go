package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/doctor"
	"github.com/bastion-ssm/bastion/lab"
)

// ill is a broken set-up, and the doctor's findings about it.
type ill struct {
	name   string
	config func(*lab.Config)
	// breaks breaks the set-up. It returns variables and arguments for the doctor.
	breaks func(t *testing.T, e *labEnv) (env, args []string)
	up     bool                                         // a bastion runs before that
	after  func(t *testing.T, e *labEnv, task lab.Task) // breaks what runs
	target string
	code   int
	// want are all findings but those in order and those of checks that need another: "LEVEL ID CASE".
	want []string
}

// findings are those of a report that say something.
func findings(r doctor.Report) (out []string) {
	for _, f := range r.Findings {
		if f.Level == doctor.OK || f.Level == doctor.Skipped && (f.Needs != "" || f.Case == "none") {
			continue
		}
		out = append(out, fmt.Sprintf("%s %s %s", f.Level, f.ID, f.Case))
	}
	return out
}

// see runs the doctor on a lab that is broken as the row says.
func (i ill) see(t *testing.T) {
	e := startLab(t, func(c *lab.Config) {
		c.Redis = lab.Off
		if i.config != nil {
			i.config(c)
		}
	})
	hosts := filepath.Join(t.TempDir(), "hosts")
	writeFile(t, hosts, "127.0.0.1 localhost\n")
	env := []string{"BASTION_HOSTS_FILE=" + hosts, "BASTION_TLS_CA=" + e.DatabaseCA()}
	if i.up {
		if r := e.run(env, "up"); r.code != 0 {
			t.Fatalf("up: %d: %s", r.code, r.stderr)
		}
	}
	args := []string{"doctor", "-o", "json"}
	if i.breaks != nil {
		more, words := i.breaks(t, e)
		env, args = append(env, more...), append(args, words...)
	}
	if i.after != nil {
		i.after(t, e, e.Tasks()[0])
	}
	if i.target != "" {
		args = append(args, i.target)
	}
	began := time.Now()
	got := e.run(env, args...)
	took := time.Since(began)
	var r doctor.Report
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil {
		t.Fatalf("%v: %d: %s%s", err, got.code, got.stdout, got.stderr)
	}
	have := findings(r)
	slices.Sort(have)
	want := slices.Clone(i.want)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("findings %q, want %q", have, want)
		for _, f := range r.Findings {
			t.Logf("%s %s %s %s | %s | %s", f.Level, f.ID, f.Case, f.Needs, f.Means, f.Fix)
		}
	}
	if got.code != i.code {
		t.Errorf("exit code %d, want %d", got.code, i.code)
	}
	if took > 40*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, f := range r.Findings {
		if f.Level == doctor.Error || f.Level == doctor.Warning {
			t.Logf("%s: %s\n\tmend: %s", f.ID, f.Means, f.Fix)
		}
		if (f.Level == doctor.Error || f.Level == doctor.Warning) && (f.Means == "" || f.Fix == "") {
			t.Errorf("%s %s says neither what it means (%q) nor what mends it (%q)", f.ID, f.Case, f.Means, f.Fix)
		}
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

// value returns a variable of the environment of the lab's user; the last one counts.
func (e *labEnv) value(name string) (v string) {
	for _, kv := range e.env {
		if key, value, _ := strings.Cut(kv, "="); key == name {
			v = value
		}
	}
	return v
}

// with returns a breaks of variables alone.
func with(env ...string) func(*testing.T, *labEnv) ([]string, []string) {
	return func(*testing.T, *labEnv) ([]string, []string) { return env, nil }
}

// given returns a breaks of arguments alone.
func given(args ...string) func(*testing.T, *labEnv) ([]string, []string) {
	return func(*testing.T, *labEnv) ([]string, []string) { return nil, args }
}

// doing returns a breaks that changes the lab.
func doing(change func(e *labEnv)) func(*testing.T, *labEnv) ([]string, []string) {
	return func(_ *testing.T, e *labEnv) ([]string, []string) { change(e); return nil, nil }
}

// front serves in the lab's place. handle decides on a request, or lets it through to the lab.
func (e *labEnv) front(t *testing.T, secure bool, handle func(w http.ResponseWriter, r *http.Request) bool) *httptest.Server {
	t.Helper()
	lab := strings.TrimPrefix(e.URL(), "http://")
	through := proxyTo(lab)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if handle == nil || !handle(w, r) {
			through.ServeHTTP(w, r)
		}
	})
	s := httptest.NewUnstartedServer(h)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

const html = `<!doctype html><title>Sign in to the guest network</title>`

func (e *labEnv) socketDir() string { return filepath.Join(e.value("XDG_RUNTIME_DIR"), "bastion") }

// Each broken set-up has its findings, and no other.
func TestDoctor(t *testing.T) {
	t.Parallel()
	for _, rows := range [][]ill{
		illMachines(), illSettings(), illNetworks(), illCredentials(), illAccounts(), illWays(), illBastions(),
		illTargets(),
	} {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				row.see(t)
			})
		}
	}
}

// A healthy set-up is all green in less than five seconds, with a bastion that runs and without one.
func TestDoctorOfTheHealthy(t *testing.T) {
	t.Parallel()
	for _, up := range []bool{false, true} {
		e := startLab(t, func(c *lab.Config) { c.KMS = true })
		env := []string{"BASTION_TLS_CA=" + e.DatabaseCA(), "BASTION_HOSTS_FILE=" + filepath.Join(t.TempDir(), "hosts")}
		writeFile(t, env[1][len("BASTION_HOSTS_FILE="):], "")
		if up {
			e.must("up")
		}
		got := e.run(env, "doctor", "-o", "json", "rds:orders")
		var r doctor.Report
		if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.code != 0 {
			t.Fatalf("%d, %v: %s%s", got.code, err, got.stdout, got.stderr)
		}
		for _, f := range r.Findings {
			isGreen := f.Level == doctor.OK || !up && f.Level == doctor.Skipped && (f.Case == "none" || f.Needs == "bastion.running")
			if !isGreen {
				t.Errorf("up %t: %s %s: %s %s", up, f.Level, f.ID, f.Case, f.Means)
			}
		}
		if r.Seconds > 5 {
			t.Errorf("up %t: it took %.1f s", up, r.Seconds)
		}
		if up && (r.Measured == nil || r.Measured.RTT <= 0 || r.Measured.Upward <= 0 || r.Measured.Seconds <= 0 || len(r.Measured.Steps) < 4) {
			t.Errorf("measured: %+v", r.Measured)
		}
		if launched := e.State().Launched; launched != map[bool]int{true: 1}[up] {
			t.Errorf("up %t: %d tasks were started", up, launched)
		}
	}
}

// Without what doctor reads besides, as in an account that an earlier version has set up, it says what it cannot see and goes on.
func TestDoctorOfAnOlderPolicy(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) {
		c.Redis = lab.Off
		c.User.Deny = []string{
			"ecs:DescribeClusters", "ec2:DescribeRouteTables", "ec2:DescribeVpcEndpoints", "iam:SimulatePrincipalPolicy",
			"ssm:GetDocument",
		}
	})
	e.must("up")
	got := e.run([]string{"BASTION_TLS_CA=" + e.DatabaseCA()}, "doctor", "-o", "json", "rds:orders")
	var r doctor.Report
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.code != 0 {
		t.Fatalf("%d, %v: %s%s", got.code, err, got.stdout, got.stderr)
	}
	want := []string{
		"skipped aws.cluster denied", "skipped aws.endpoints denied", "skipped aws.execution_role denied",
		"skipped aws.routes denied", "skipped aws.session_preferences denied", "skipped aws.task_role denied",
	}
	have := findings(r)
	if slices.Sort(have); !slices.Equal(have, want) {
		t.Errorf("%q, want %q", have, want)
	}
	if r.Measured == nil {
		t.Error("it did not measure")
	}
}

// A shared report has nothing of what people have named, typed or been given.
func TestDoctorShares(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.Redis = lab.Off })
	e.must("up")
	dir := t.TempDir()
	file := filepath.Join(dir, "secretfile-planted")
	config := filepath.Join(dir, "planted-config.yaml")
	writeFile(t, config, "region: eu-central-1\ntags: {planted-key: planted-value}\nproxy_domains: planted.example\ntargets:\n  "+
		"planted-target: planted-host.example:5432\n")
	env := append(e.as("planted-user", lab.IdentityConfig{}), "BASTION_CONFIG="+config, "BASTION_TLS_CA="+dir+"/planted-ca.pem",
		"HTTPS_PROXY=http://planted-proxyuser:planted-password@planted-proxy.example:3128", "BASTION_TASK_DEFINITION=planted-family",
		"BASTION_HOSTS_FILE="+dir+"/planted-hosts", "BASTION_SUBNETS=subnet-0planted0000")
	for _, args := range [][]string{{"planted-target"}, {"rds:planted-database"}, {"planted:::"}, nil} {
		got := e.run(env, append([]string{"doctor", "--share", file}, args...)...)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("%v: %d: %s%s", err, got.code, got.stdout, got.stderr)
		}
		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		task := e.Tasks()[0]
		for _, secret := range []string{
			"planted", lab.Account, "arn:", "127.0.0.1", "amazonaws", "subnet-", "sg-", task.ID, host, dir,
			"eu-central-1", ".example",
		} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%q: the report has %q:\n%s", args, secret, text)
			}
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", info, err)
		}
		if !strings.Contains(string(text), "config.ca") || !strings.Contains(string(text), "unreadable") || !strings.Contains(string(text),
			"tls_ca") {
			t.Errorf("it says too little:\n%s", text)
		}
	}
}

// --fix makes the changes that it has offered, and no other; then the findings are gone.
func TestDoctorFixes(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.Redis, c.Postgres = lab.Off, lab.Off })
	hosts := filepath.Join(t.TempDir(), "hosts")
	writeFile(t, hosts, "127.0.0.1 localhost\n# BEGIN bastion 999999999-1-1\n127.0.0.9 gone.example\n# END bastion 999999999-1-1\n")
	env := []string{"BASTION_HOSTS_FILE=" + hosts}
	staleSocket(t, e)
	oldBlock(t, e)
	if r := e.run(env, "doctor", "--fix"); r.code != 2 || !strings.Contains(r.stderr, "--yes") {
		t.Errorf("without a terminal: %d: %s", r.code, r.stderr)
	}
	r := e.run(env, "doctor", "--fix", "--yes")
	if r.code != doctor.ExitWarnings || strings.Count(r.stderr, "done: ") != 3 {
		t.Errorf("%d: %s%s", r.code, r.stdout, r.stderr)
	}
	if r := e.run(env, "doctor", "--fix", "--yes"); r.code != 0 || strings.Contains(r.stderr, "done: ") {
		t.Errorf("again: %d: %s%s", r.code, r.stdout, r.stderr)
	}
	text, err := os.ReadFile(hosts)
	if err != nil || string(text) != "127.0.0.1 localhost\n" {
		t.Errorf("%q, %v", text, err)
	}
	if r := e.run(nil, "doctor", "--yes"); r.code != 2 {
		t.Errorf("--yes alone: %d: %s", r.code, r.stderr)
	}
}

// docs/doctor.md has the table of checks as it is.
func TestDoctorIsDocumented(t *testing.T) {
	const begin, end = "<!-- checks: begin -->\n", "<!-- checks: end -->\n"
	path := "../../docs/doctor.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("docs/doctor.md has no place for the table")
	}
	want := strings.TrimPrefix(doctor.Table(), "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != want {
		t.Error("docs/doctor.md has another table: go test ./cmd/bastion -run TestDoctorIsDocumented -update")
	}
}
