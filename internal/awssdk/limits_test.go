package awssdk

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// unending starts an endpoint whose answers do not end before the test, and counts its requests.
func unending(t *testing.T, answer func(http.ResponseWriter)) (url string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // before its end the server does not see that the client has gone
		requests.Add(1)
		<-time.After(20 * time.Millisecond) // the SDK loses an answer that overtakes the end of its request: see docs/lab.md
		answer(w)
		flush := http.NewResponseController(w).Flush
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-r.Context().Done():
				tick.Stop()
				return
			case <-tick.C:
				if w.Header().Get("Trickle") != "" {
					_, _ = w.Write([]byte(" "))
					_ = flush()
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, requests
}

// answers are the ways in which an endpoint does not answer.
var answers = map[string]func(http.ResponseWriter){
	"nothing": func(http.ResponseWriter) {},
	"headers": func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
	},
	"a trickle": func(w http.ResponseWriter) { w.Header().Set("Trickle", "yes") },
}

// A call ends in its time whatever the endpoint sends, after as many attempts as have room, and the error names it. One that may
// have started a session is left to its caller.
func TestCallsEnd(t *testing.T) {
	const limit = 600 * time.Millisecond
	for action, tt := range map[string]struct {
		call func(context.Context, aws.Config) error
		most int32 // attempts
	}{
		"sts:GetCallerIdentity": {func(ctx context.Context, cfg aws.Config) error {
			_, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
			return err
		}, attemptsInTime},
		"ecs:ListTasks": {func(ctx context.Context, cfg aws.Config) error {
			_, err := ecs.NewFromConfig(cfg).ListTasks(ctx, &ecs.ListTasksInput{})
			return err
		}, attemptsInTime},
		"ssm:StartSession": {func(ctx context.Context, cfg aws.Config) error {
			_, err := ssm.NewFromConfig(cfg).StartSession(ctx, &ssm.StartSessionInput{Target: aws.String("i-1")})
			return err
		}, 1},
	} {
		for name, answer := range answers {
			t.Run(action+" "+name, func(t *testing.T) {
				url, requests := unending(t, answer) // of its own: a server may count a request after its call has ended
				awsEnv(t, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL="+url)
				cfg, err := Load(t.Context(), Source{CallTimeout: limit})
				if err != nil {
					t.Fatal(err)
				}
				err = fail.AWS(fail.Other, "ask", action, tt.call(t.Context(), cfg))
				if fail.KindOf(err) != fail.Timeout || !strings.Contains(err.Error(), action) {
					t.Errorf("%v, kind %v", err, fail.KindOf(err))
				}
				if _, ok := errors.AsType[net.Error](err); !ok {
					t.Errorf("%v is no net.Error", err)
				}
				if made := requests.Load(); made > tt.most {
					t.Errorf("%d attempts", made)
				}
			})
		}
	}
}

// Of the calls that change something, the SDK repeats those that do nothing more a second time. A new call of the program (see
// TestProgramKeepsOnlyItsCalls in e2e) takes its place here, with the reason.
func TestCallsThatMayBeRepeated(t *testing.T) {
	for call, harmless := range map[string]string{
		"ssm:StartSession":                      "",
		"ecs:ExecuteCommand":                    "",
		"ecs:RunTask":                           "its client token makes one task of it",
		"ecs:StopTask":                          "the task is stopped once",
		"ssm:ResumeSession":                     "it gives another token for the same session",
		"ssm:TerminateSession":                  "the session ends once",
		"ec2-instance-connect:SendSSHPublicKey": "it is the same key, for a minute",
		"kms:GenerateDataKey":                   "a key that nobody uses is nowhere kept",
	} {
		if startsSession(call) != (harmless == "") {
			t.Errorf("%s: left to its caller: %v; harmless twice: %q", call, startsSession(call), harmless)
		}
	}
}

// cuts are the ways in which a connection ends without a whole answer.
var cuts = map[string]string{
	"no answer":      "",
	"half an answer": "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 99\r\n\r\n{",
}

// A call without an answer is made again, unless it may have started a session: that is left to its caller.
func TestCutAnswers(t *testing.T) {
	for name, answer := range cuts {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			again, seen := context.WithCancel(t.Context()) // is cancelled by the second attempt of the third call
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if requests.Add(1) == 4 {
					seen()
				}
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.WriteString(conn, answer)
				_ = conn.Close()
			}))
			defer server.Close()
			defer seen()
			awsEnv(t, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL="+server.URL)
			cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			_, err = ssm.NewFromConfig(cfg).StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String("i-1")})
			if n := requests.Load(); n != 1 || !awsanswer.Unreached(err) {
				t.Errorf("StartSession: %d attempts, %v", n, err)
			}
			if cut, ok := errors.AsType[*cutAnswer](err); !ok || cut.RetryableError() {
				t.Errorf("StartSession: the SDK may repeat it: %v", err)
			}
			_, err = ecs.NewFromConfig(cfg).ExecuteCommand(t.Context(), &ecs.ExecuteCommandInput{
				Command: aws.String("x"), Task: aws.String("x"), Interactive: true,
			})
			if n := requests.Load(); n != 2 || !awsanswer.Unreached(err) {
				t.Errorf("ExecuteCommand: %d attempts with that, %v", n, err)
			}
			if answer != "" {
				return // the SDK does not repeat a call for an answer that is not whole
			}
			_, err = ecs.NewFromConfig(cfg).ListTasks(again, &ecs.ListTasksInput{})
			if again.Err() == nil {
				t.Errorf("ListTasks: %d attempts with those, %v", requests.Load(), err)
			}
		})
	}
}

// The calls for credentials end as well, though the SDK makes clients of its own for them.
func TestCredentialsEnd(t *testing.T) {
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			url, requests := unending(t, answer)
			awsEnv(t, "AWS_CONTAINER_CREDENTIALS_FULL_URI="+url, "AWS_REGION=eu-central-1")
			_, err := Load(t.Context(), Source{CallTimeout: 1500 * time.Millisecond})
			if fail.KindOf(err) != fail.Timeout || !strings.Contains(err.Error(), "the credentials' endpoint") {
				t.Errorf("%v, kind %v", err, fail.KindOf(err))
			}
			if requests.Load() == 0 {
				t.Error("nothing was asked")
			}
		})
	}
}

// AWS's own answer is the error of a call whose time is over before it may be tried again.
func TestAnswerInPlaceOfTheTime(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Amzn-ErrorType", "ThrottlingException")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"__type":"ThrottlingException","message":"Rate exceeded"}`))
	}))
	defer server.Close()
	awsEnv(t, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_REGION=eu-central-1",
		"AWS_ENDPOINT_URL="+server.URL, "AWS_MAX_ATTEMPTS=100")
	cfg, err := Load(t.Context(), Source{CallTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	_, err = ecs.NewFromConfig(cfg).ListTasks(t.Context(), &ecs.ListTasksInput{})
	if err == nil || !strings.Contains(err.Error(), "Rate exceeded") {
		t.Errorf("got %v", err)
	}
}

// What AWS answered last is told where the caller's time is over during the pause before another attempt. It is a timeout even so.
func TestAnswerBesideTheCallersTime(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(`{"__type":"ServerException","message":"Something broke"}`))
	}))
	defer server.Close()
	awsEnv(t, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_REGION=eu-central-1",
		"AWS_ENDPOINT_URL="+server.URL, "AWS_MAX_ATTEMPTS=100")
	cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = ecs.NewFromConfig(cfg).ListTasks(ctx, &ecs.ListTasksInput{})
	err = fail.AWS(fail.Start, "list", "ecs:ListTasks", err)
	if fail.KindOf(err) != fail.Timeout || !strings.Contains(err.Error(), "ServerException: Something broke") ||
		!strings.Contains(fail.NextOf(err), "AWS failed: try again") {
		t.Errorf("%v (%v), next step %q", err, fail.KindOf(err), fail.NextOf(err))
	}
	if strings.Contains(err.Error(), "context deadline exceeded, ") {
		t.Errorf("%v says the time alone", err)
	}
}
