package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// Commands end with the exit code of a timeout and name the call where AWS accepts and never answers, sends headers only, or
// trickles.
func TestCommandsEndWithoutAnswers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter) bool{ // false: no more to send
		"nothing": func(http.ResponseWriter) bool { return false },
		"headers": func(w http.ResponseWriter) bool {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			return false
		},
		"a trickle": func(w http.ResponseWriter) bool {
			_, err := w.Write([]byte(" "))
			return err == nil
		},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // before its end the server does not see that the client has gone
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for answer(w) {
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-tick.C:
				}
			}
			<-r.Context().Done()
		}))
		t.Cleanup(server.Close)
		for _, args := range []string{
			"status", "down", "up", "ls targets", "ls bastions", "token rds:orders --user u", "forward rds:orders :",
			"forward cache:sessions :",
		} {
			t.Run(name+"/"+args, func(t *testing.T) {
				t.Parallel()
				home := t.TempDir()
				if err := os.MkdirAll(filepath.Join(home, "run"), 0o700); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, filepath.Join(scratch, "bastion"), strings.Fields(args)...)
				cmd.Env = append(append(rig.Environ(), offline(home)...), "AWS_ENDPOINT_URL="+server.URL,
					"AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "BASTION_AWS_TIMEOUT=1s")
				cmd.Dir = home
				out, err := cmd.CombinedOutput()
				if code := cmd.ProcessState.ExitCode(); code != 9 || !strings.Contains(string(out), "no whole answer to ") {
					t.Errorf("exit code %d, %v\n%s", code, err, out)
				}
			})
		}
	}
}

// silent is a server that accepts, reads and never answers.
func silent(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // before its end the server does not see that the client has gone
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Wherever the credentials come from, through the agent or not, a command ends with a timeout's exit code and says what it waited
// for.
func TestCommandsEndWithoutCredentials(t *testing.T) {
	t.Parallel()
	const sso = "[profile s]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n" +
		"[sso-session s]\nsso_start_url = https://sso.invalid\nsso_region = eu-central-1\n"
	for name, tt := range map[string]struct {
		env, args []string
		config    string
		commands  []string
		says      string
	}{
		"sts": {
			[]string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=s"},
			nil, "",
			[]string{"forward rds:orders :", "forward -d rds:orders :", "exec rds:orders -- true", "socks :", "proxy db.internal 5432"},
			"no whole answer to ",
		},
		"a role": {
			nil,
			[]string{"--profile", "r"},
			"[profile r]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = k\n[profile k]\naws_access_key_id = AKIATEST\naws_secret_access_key = s\n",
			[]string{"forward rds:orders :", "status"},
			"no whole answer to sts:AssumeRole",
		},
		"single sign-on": {nil, []string{"--profile", "s"}, sso, []string{"forward rds:orders :", "status"}, "no whole answer to sso:GetRoleCredentials"},
		"the instance's metadata": {
			// Who cannot even connect in the time is on no instance, and has no credentials, which is another error.
			[]string{"AWS_EC2_METADATA_DISABLED=false", "AWS_EC2_METADATA_SERVICE_ENDPOINT=URL", "BASTION_AWS_TIMEOUT=2s"},
			nil, "",
			[]string{"forward rds:orders :", "status"},
			"no whole answer to the instance metadata",
		},
		"a container":       {[]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=URL"}, nil, "", []string{"forward rds:orders :"}, "no whole answer to the credentials' endpoint"},
		"a program":         {nil, []string{"--profile", "p"}, "[profile p]\ncredential_process = exec sleep 600\n", []string{"forward rds:orders :", "status"}, "no whole answer to the source of the credentials"},
		"a program's child": {nil, []string{"--profile", "p"}, "[profile p]\ncredential_process = sleep 20; true\n", []string{"forward rds:orders :", "status"}, "no whole answer to the source of the credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			aws := newCallers(t)
			p := newPerson(t, aws)
			p.file("config", tt.config)
			p.ssoToken()
			url := silent(t)
			env := []string{"AWS_ENDPOINT_URL=" + url, "BASTION_AWS_TIMEOUT=300ms"}
			for _, variable := range tt.env {
				env = append(env, strings.Replace(variable, "=URL", "="+url, 1))
			}
			for _, command := range tt.commands {
				for _, alone := range []string{"false", "true"} {
					if alone == "true" && strings.Contains(command, " -d ") {
						continue
					}
					t.Run(command+"/"+alone, func(t *testing.T) {
						t.Parallel()
						args := strings.Fields(command)
						args = append(append([]string{args[0]}, tt.args...), args[1:]...)
						code, out := p.run(append(slices.Clone(env), "BASTION_NO_AGENT="+alone), args...)
						if code != 9 || !strings.Contains(out, tt.says) {
							t.Errorf("exit code %d, want 9 and %q\n%s", code, tt.says, out)
						}
					})
				}
			}
		})
	}
}
