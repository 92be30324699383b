package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/configuration.md")

// The tables of docs/configuration.md are those of the code.
func TestDocumentation(t *testing.T) {
	const path = "../../docs/configuration.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "## Settings\n"
	head, have, ok := strings.Cut(string(data), mark)
	if !ok {
		t.Fatalf("%s has no %q", path, mark)
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+mark+tables()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != tables() {
		t.Errorf("%s differs from the table of settings; run: go test ./internal/config -run TestDocumentation -update", path)
	}
}

func tables() string {
	var b strings.Builder
	for _, group := range Groups() {
		fmt.Fprintf(&b, "\n### %s\n\n| Key | Option | Variable | Default | Project file | Meaning |\n| --- | --- | --- | --- | --- | --- |\n", group)
		for _, s := range All() {
			if s.Group != group {
				continue
			}
			option := "--" + s.Flag()
			if s.Short != "" {
				option = "-" + s.Short + ", " + option
			}
			if s.Value != "" {
				option += " " + s.Value
			}
			def := "none"
			if s.Default != "" {
				def = "`" + s.Default + "`"
			}
			cell := strings.NewReplacer("|", `\|`).Replace
			project := "if trusted"
			if s.Trust == Project {
				project = "yes"
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | `%s` | %s | %s | %s |\n", s.Key, cell(option), s.Env(), def, project, cell(s.Help))
		}
	}
	return b.String()
}

// maxHelp is the length of a setting's help that fits on two lines of 100 columns.
const maxHelp = 180

// Each setting must belong to a group that is shown, and its flag must be free.
func TestTableIsComplete(t *testing.T) {
	groups := make(map[string]bool)
	for _, g := range Groups() {
		groups[g] = true
	}
	flags := map[string]bool{"config": true, "help": true, "h": true, "L": true}
	for _, s := range All() {
		if !groups[s.Group] {
			t.Errorf("%s is in no group that is shown", s.Key)
		}
		for _, name := range []string{s.Flag(), s.Short} {
			if name != "" && flags[name] {
				t.Errorf("the flag %s is there twice", name)
			}
			flags[name] = true
		}
		if s.Help == "" || (s.Value == "") != s.IsSwitch() {
			t.Errorf("%s lacks help, or the form of its value", s.Key)
		}
		if len(s.Help) > maxHelp {
			t.Errorf("the help of %s has %d characters; docs/configuration.md is the place for more", s.Key, len(s.Help))
		}
	}
}

// A setting that separates links costs each of its users a task or a link of their own; links share every other setting. So each
// new setting needs a place here.
func TestUses(t *testing.T) {
	want := map[Use]string{
		ForLink: "environment profile region aws_timeout mfa_command cluster task_definition shared_service container subnets subnet_tags security_groups security_group_tags " +
			"assign_public_ip task_size task_cpu task_memory task_capacity tags start_timeout grant_command grant_lifetime permit sessions session_max_age " +
			"session_document linger connect_timeout reconnect_timeout reconnect_min reconnect_max keepalive hold_max hold_timeout " +
			"target ssh_user ssh_port ssh_host_key ssh_identity",
		ForForward: "hosts tls_ca redis_cluster",
		ForProxy:   "proxy_domains proxy_cidrs proxy_auth_file",
		ForCommand: "audit_log_group allow_remote browser no_agent agent_idle hosts_file runtime_dir state_dir remember_host_keys notify metrics_listen " +
			"metrics_token_file price_vcpu_hour price_gb_hour output quiet verbose",
	}
	got := make(map[Use]string)
	for _, s := range All() {
		got[s.Use] = strings.TrimSpace(got[s.Use] + " " + s.Key)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
