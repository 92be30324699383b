package lab_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// adminCall calls the admin endpoint and decodes its answer into out, if there is one.
func adminCall(t *testing.T, l *lab.Lab, method, path, body string, out any) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, l.URL()+"/_lab/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if raw, ok := out.(*string); ok {
		*raw = string(text)
	} else if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
	return resp.StatusCode
}

func TestAdminState(t *testing.T) {
	l := start(t, quick(t))
	_, task := run(t, l)
	session := startSSH(t, l)
	var s lab.State
	if status := adminCall(t, l, "GET", "state", "", &s); status != 200 {
		t.Fatal(status)
	}
	if len(s.Tasks) != 1 || s.Tasks[0].ARN != *task.TaskArn || s.Tasks[0].LastStatus != "RUNNING" ||
		!s.Tasks[0].Connected || s.Tasks[0].PID == 0 {
		t.Errorf("tasks %+v", s.Tasks)
	}
	if len(s.Sessions) != 1 || s.Sessions[0].ID != session || s.Counters.Live != 1 || s.Counters.Started != 1 {
		t.Errorf("sessions %+v, %+v", s.Sessions, s.Counters)
	}
	if s.Calls["ecs:RunTask"] != 1 || s.Calls["ssm:StartSession"] != 1 || s.Launched != 1 {
		t.Errorf("calls %v", s.Calls)
	}
	if s.URL != l.URL() || s.Resolver == "" {
		t.Errorf("url %s, resolver %s", s.URL, s.Resolver)
	}
	if status := adminCall(t, l, "POST", "terminate-session", `{"session":"`+session+`"}`, nil); status != 200 {
		t.Error("terminate:", status)
	}
	if n := l.Gateway().Counters(); n.Live != 0 || n.Terminated != 1 {
		t.Errorf("%+v", n)
	}
	if status := adminCall(t, l, "POST", "terminate-session", `{"session":"nope"}`, nil); status != 404 {
		t.Error("terminate a session that never was:", status)
	}
}

// startSSH starts a session to the only task.
func startSSH(t *testing.T, l *lab.Lab) (id string) {
	t.Helper()
	out, err := ssm.NewFromConfig(sdk(t, l.Env())).StartSession(t.Context(), &ssm.StartSessionInput{
		Target: aws.String(l.Tasks()[0].Target), DocumentName: aws.String("AWS-StartSSHSession"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return *out.SessionId
}

func TestAdminFaults(t *testing.T) {
	l := start(t, quick(t))
	if status := adminCall(t, l, "PUT", "faults", `{"delay_ms":20,"drop":0.01,"pause":true}`, nil); status != 200 {
		t.Error(status)
	}
	want := gateway.Faults{DelayMS: 20, Drop: 0.01, Pause: true}
	var got gateway.Faults
	if adminCall(t, l, "GET", "faults", "", &got); got != want || l.Gateway().Faults() != want {
		t.Errorf("faults %+v", got)
	}
	if status := adminCall(t, l, "PUT", "api-faults", `{"throttle":{"ssm:*":2}}`, nil); status != 200 {
		t.Error(status)
	}
	var api lab.APIFaults
	if adminCall(t, l, "GET", "api-faults", "", &api); api.Throttle["ssm:*"] != 2 {
		t.Errorf("API faults %+v", api)
	}
	for path, bodies := range map[string][]string{
		"faults":     {`{"dely_ms":20}`, `{"drop":2}`, `[]`, `{`},
		"api-faults": {`{"throtle":{}}`, `{"rate":{"*":-1}}`},
	} {
		for _, body := range bodies {
			var text string
			if status := adminCall(t, l, "PUT", path, body, &text); status != 400 || !strings.Contains(text, `"error"`) {
				t.Errorf("%s %s: %d %s", path, body, status, text)
			}
		}
	}
	if l.Gateway().Faults() != want {
		t.Error("a bad request changed the faults")
	}
	if status := adminCall(t, l, "POST", "cut", `{"how":"gently"}`, nil); status != 400 {
		t.Error("cut gently:", status)
	}
	if status := adminCall(t, l, "POST", "cut", `{"side":"left"}`, nil); status != 400 {
		t.Error("cut the left side:", status)
	}
	var cut struct{ Cut int }
	if status := adminCall(t, l, "POST", "cut", "", &cut); status != 200 || cut.Cut != 0 {
		t.Error("cut nothing:", status, cut)
	}
	for path, bodies := range map[string][]string{
		"cut-control": {`{"how":"gently"}`}, "restart-gateway": {`{"down_ms":-1}`, `{"down_ms":600001}`, `{"down":1}`},
	} {
		for _, body := range bodies {
			if status := adminCall(t, l, "POST", path, body, nil); status != 400 {
				t.Errorf("%s %s: %d", path, body, status)
			}
		}
	}
	if status := adminCall(t, l, "POST", "cut-control", "", &cut); status != 200 || cut.Cut != 0 {
		t.Error("cut no control channel:", status, cut)
	}
	var reset struct{ Reset int }
	if status := adminCall(t, l, "POST", "reset-port", "", &reset); status != 200 || reset.Reset != 0 {
		t.Error("reset nothing:", status, reset)
	}
	if status := adminCall(t, l, "POST", "rate", `{"session":"nope","rate_bps":1}`, nil); status != 404 {
		t.Error("a rate for no session:", status)
	}
	if status := adminCall(t, l, "PUT", "api-faults", "{}", nil); status != 200 {
		t.Error(status)
	}
	run(t, l)
	id := startSSH(t, l)
	if status := adminCall(t, l, "POST", "rate", `{"session":"`+id+`","rate_bps":1000}`, nil); status != 200 {
		t.Error("a rate:", status)
	}
	if status := adminCall(t, l, "POST", "rate", `{"session":"`+id+`","rate_bps":-1}`, nil); status != 400 {
		t.Error("a negative rate:", status)
	}
}

func TestAdminTasks(t *testing.T) {
	l := start(t, quick(t))
	_, task := run(t, l)
	id := l.Tasks()[0].ID
	eventually(t, "the program listens", func() bool {
		var text string
		return adminCall(t, l, "GET", "tasks/"+id+"/stdout", "", &text) == 200 && strings.HasPrefix(text, "127.0.0.1:")
	})
	eventually(t, "it has written to stderr", func() bool {
		var text string
		return adminCall(t, l, "GET", "tasks/"+id+"/stderr", "", &text) == 200 && strings.HasPrefix(text, "socket ")
	})
	for path, want := range map[string]int{"tasks/" + id + "/x": 404, "tasks/x/stdout": 404} {
		if status := adminCall(t, l, "GET", path, "", nil); status != want {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status := adminCall(t, l, "POST", "stop-task", `{"task":"x"}`, nil); status != 404 {
		t.Error("stop a task that never was:", status)
	}
	var stopped struct{ Tasks int }
	status := adminCall(t, l, "POST", "stop-task", `{"reason":"host maintenance"}`, &stopped)
	if status != 200 || stopped.Tasks != 1 {
		t.Error("stop all:", status, stopped)
	}
	if s := l.Tasks()[0]; s.LastStatus != "STOPPED" || s.StoppedReason != "host maintenance" || s.ARN != *task.TaskArn {
		t.Errorf("%+v", s)
	}
	run2 := runInput()
	if _, err := ecs.NewFromConfig(sdk(t, l.Env())).RunTask(t.Context(), run2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second task is killed", func() bool { return adminCall(t, l, "POST", "kill-task", "", nil) == 200 })
	eventually(t, "it is STOPPED", func() bool { return l.Tasks()[1].LastStatus == "STOPPED" })
}

func TestAdminIdentitiesAndNames(t *testing.T) {
	l := start(t, quick(t))
	var made struct{ Env []string }
	if status := adminCall(t, l, "POST", "identities", `{"name":"eve","deny":["ecs:*"]}`, &made); status != 200 {
		t.Fatal(status)
	}
	cfg := sdk(t, made.Env)
	me, err := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), nil)
	if err != nil || aws.ToString(me.Arn) != "arn:aws:iam::000000000000:user/eve" {
		t.Errorf("I am %v, %v", me, err)
	}
	_, err = ecs.NewFromConfig(cfg).ListClusters(t.Context(), nil)
	wantCode(t, err, "AccessDeniedException", "explicit deny")
	name := `{"name":"db.corp.internal","addrs":["127.0.0.9"]}`
	if status := adminCall(t, l, "POST", "names", name, nil); status != 200 {
		t.Error(status)
	}
	for _, body := range []string{`{"name":"x","addrs":["nonsense"]}`, `{"addrs":["127.0.0.9"]}`} {
		if status := adminCall(t, l, "POST", "names", body, nil); status != 400 {
			t.Errorf("%s: %d", body, status)
		}
	}
}

// TestAdminRefusesWebPages is about a page in the user's browser, which can reach loopback.
func TestAdminRefusesWebPages(t *testing.T) {
	l := start(t, quick(t))
	for name, change := range map[string]func(*http.Request){
		"origin": func(r *http.Request) { r.Header.Set("Origin", "https://example.org") },
		"host":   func(r *http.Request) { r.Host = "rebound.example.org" },
	} {
		for _, path := range []string{"state", "tasks/x/stdout"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.URL()+"/_lab/"+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			change(req)
			resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s, %s: %d", name, path, resp.StatusCode)
			}
		}
	}
}

func TestEnv(t *testing.T) {
	l := start(t, quick(t))
	env := l.Environ([]string{"PATH=/bin", "AWS_ACCESS_KEY_ID=AKIAREAL", "AWS_SESSION_TOKEN=real", "AWS_PROFILE=prod"})
	if !slices.Contains(env, "PATH=/bin") || strings.Contains(strings.Join(env, "\n"), "real") ||
		value(env, "AWS_ACCESS_KEY_ID") != "" {
		t.Errorf("environment %q", env)
	}
	if value(env, "AWS_PROFILE") != "lab" || value(env, "AWS_ENDPOINT_URL") != l.URL() {
		t.Errorf("environment %q", env)
	}
	for _, key := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		fi, err := os.Stat(value(env, key))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", key, fi, err)
		}
	}
}
