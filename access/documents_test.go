package access

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

// What works is remembered for a while, also by other processes, and doubted when AWS refuses it.
func TestDocumentsRemember(t *testing.T) {
	both := []string{sessions.DocumentSSH, sessions.DocumentPort}
	port := []string{sessions.DocumentPort}
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		want := func(d *documents, place string, want []string) {
			t.Helper()
			if got := d.order(place); !slices.Equal(got, want) {
				t.Errorf("at %q: %v, want %v", place, got, want)
			}
		}
		one := &documents{dir: dir}
		want(one, "a", both)
		want(one, "", []string{sessions.DocumentSSH}) // a node
		if err := one.works("a", sessions.DocumentPort, "denied"); err != nil {
			t.Fatal(err)
		}
		want(one, "a", port)
		want(one, "b", both)
		two := &documents{dir: dir}
		want(two, "a", port)
		if c, ok := two.get("a"); !ok || c.Reason != "denied" {
			t.Errorf("%+v", c)
		}
		want(&documents{dir: dir, forced: sessions.DocumentSSH}, "a", []string{sessions.DocumentSSH})
		want(&documents{}, "a", both)

		<-time.After(documentMaxAge + time.Second)
		want(two, "a", both)
		want(&documents{dir: dir}, "a", both)

		if err := two.works("a", sessions.DocumentPort, "denied"); err != nil {
			t.Fatal(err)
		}
		two.doubt("a")
		want(two, "a", both)
		want(&documents{dir: dir}, "a", both)

		// What somebody else wrote there is not a document to run.
		if err := os.WriteFile(two.path("a"), []byte(`{"document":"Evil","chosen_at":"2026-01-01T00:00:00Z"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		want(&documents{dir: dir}, "a", both)
		if all, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(all) > 0 {
			t.Errorf("left over: %v", all)
		}
	})
}

func TestDocumentPlace(t *testing.T) {
	a := testAccess(t, Settings{AWS: config.AWS{Profile: "dev"}})
	a.region = "eu-west-1"
	a.account.Store("111122223333")
	for target, want := range map[string]string{
		"i-0123456789abcdef0":             "",
		"mi-0123456789abcdef0":            "",
		"ecs:tools_0123_0123-1":           "111122223333\ndev\neu-west-1\ntools",
		"ecs:tools_of_others_0123_0123-1": "111122223333\ndev\neu-west-1\ntools_of_others",
	} {
		if got := a.documentPlace(target); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
}

// Only an answer that may be due to the document is a reason to try the other.
func TestRefusesDocument(t *testing.T) {
	api := func(op, code, message string) error {
		return fail.AWS(fail.Start, "open", "ssm:"+op, &smithy.OperationError{
			ServiceID: "SSM", OperationName: op, Err: &smithy.GenericAPIError{Code: code, Message: message},
		})
	}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{api("StartSession", "AccessDeniedException", ""), true},
		{api("StartSession", "InvalidDocument", ""), true},
		{api("StartSession", "ValidationException", "Document AWS-StartSSHSession is not supported"), true},
		{api("StartSession", "UnsupportedOperationException", ""), true},
		{api("StartSession", "BadRequest", ""), true}, // an answer that nobody has seen
		{api("StartSession", "BadRequest", "The SSM agent on this target doesn't support it."), true},
		{api("StartSession", "InternalServerError", ""), false},
		{api("StartSession", "LimitExceededException", ""), false},
		{api("ResumeSession", "BadRequest", ""), false},
		{
			fmt.Errorf("open: %w", &sessions.ClosedError{Output: "Plugin with name Port is not supported by this version of ssm agent"}),
			true,
		},
		{fmt.Errorf("open: %w", &sessions.ClosedError{Output: "CommandBufferFull"}), false},
		{fmt.Errorf("open: %w", &sessions.ClosedError{Output: "Connection to destination port failed"}), false},
		{api("ExecuteCommand", "AccessDeniedException", ""), false},
		{api("StartSession", "TargetNotConnected", ""), false},
		{api("StartSession", "ThrottlingException", ""), false},
		{api("StartSession", "ExpiredTokenException", ""), false},
		{fmt.Errorf("%w", sessions.ErrUnanswered), false},
		{errors.New("connection refused"), false},
	} {
		if got := refusesDocument(tt.err); got != tt.want {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
}

// refusingSSM answers StartSession with an error for each document.
type refusingSSM struct {
	sessions.SSMAPI // others are not called

	answers map[string]error // nil: none comes
	began   time.Time
	mu      sync.Mutex
	calls   map[string][]time.Duration // when each document was asked for
}

func (f *refusingSSM) StartSession(ctx context.Context, in *ssm.StartSessionInput, _ ...func(*ssm.Options)) (
	*ssm.StartSessionOutput, error,
) {
	name := aws.ToString(in.DocumentName)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[name] = append(f.calls[name], time.Since(f.began))
	err := f.answers[name]
	if err == nil {
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		err = ctx.Err()
	}
	return nil, &smithy.OperationError{ServiceID: "SSM", OperationName: "StartSession", Err: err}
}

// The second document is tried at once where the first is refused, and where the target stays not connected: after a while.
func TestSecondDocument(t *testing.T) {
	notConnected := &smithy.GenericAPIError{Code: "TargetNotConnected", Message: "x is not connected."}
	for name, tt := range map[string]struct {
		ssh    error
		forced string
		first  time.Duration // at which the second document is tried; negative: never
	}{
		"not connected":  {notConnected, "", documentDoubt},
		"silent":         {nil, "", documentPatience},
		"silent, forced": {nil, sessions.DocumentSSH, -1},
		"forced":         {notConnected, sessions.DocumentSSH, -1},
		"unknown":        {&smithy.GenericAPIError{Code: "BadRequest"}, "", 0},
		"throttled":      {&smithy.GenericAPIError{Code: "ThrottlingException"}, "", -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &refusingSSM{
					answers: map[string]error{sessions.DocumentSSH: tt.ssh, sessions.DocumentPort: notConnected},
					began:   time.Now(), calls: make(map[string][]time.Duration),
				}
				a := testAccess(t, Settings{Link: config.Link{ConnectTimeout: 2 * documentDoubt}})
				a.documents.forced = tt.forced
				a.sessions = sessions.New(sessions.Config{SSM: api})
				_, err := a.openPort(t.Context(), sessions.Port{Target: "ecs:tools_1_1-1", Port: 2222}, &patience{})
				if err == nil {
					t.Fatal("a session")
				}
				api.mu.Lock()
				defer api.mu.Unlock()
				second := api.calls[sessions.DocumentPort]
				switch {
				case tt.first < 0 && len(second) > 0, tt.first >= 0 && len(second) == 0:
					t.Errorf("the second document at %v", second)
				case len(second) > 0 && (second[0] < tt.first || second[0] > tt.first+2*lastRetry):
					t.Errorf("the second document at %v, want it after %v", second[0], tt.first)
				}
			})
		})
	}
}

// Silence is a reason to doubt the document that worked, except where a link lives by it: then it was the place that was missing.
func TestSilenceAtTheLimit(t *testing.T) {
	const target = "ecs:tools_1_1-1"
	for _, links := range []int{0, 1} {
		t.Run(fmt.Sprint(links, " links"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				silence := fmt.Errorf("open: %w", sessions.ErrUnanswered)
				api := &refusingSSM{
					answers: map[string]error{sessions.DocumentSSH: silence, sessions.DocumentPort: silence},
					calls:   make(map[string][]time.Duration),
				}
				a := testAccess(t, Settings{Link: config.Link{ConnectTimeout: 5 * time.Second}})
				a.sessions = sessions.New(sessions.Config{SSM: api})
				for range links {
					a.bonds.add(&fakeBond{stats: bond.Stats{Subflows: make([]bond.SubflowStats, 2)}}, "", target)
				}
				place := a.documentPlace(target)
				if err := a.documents.works(place, sessions.DocumentPort, "denied"); err != nil {
					t.Fatal(err)
				}
				if _, err := a.openPort(t.Context(), sessions.Port{Target: target, Port: 2222}, &patience{}); err == nil {
					t.Fatal("a session")
				}
				if _, known := a.documents.get(place); known != (links > 0) {
					t.Errorf("the document is known: %v", known)
				}
			})
		})
	}
}
