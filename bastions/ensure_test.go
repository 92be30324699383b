package bastions

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

func TestEnsureStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		m := New(Config{ECS: f, Version: "1.2.3"})
		spec := testSpec()
		spec.Tags = map[string]string{"team": "data", "bastion:owner": "somebody else"}
		spec.SecurityGroups = []string{"sg-1"}
		var events []string
		begin := time.Now()
		b, started, err := m.Ensure(
			t.Context(),
			spec,
			func(e Event) { events = append(events, strings.TrimSpace(e.State+" "+e.Detail)) },
		)
		if err != nil || !started {
			t.Fatalf("Ensure = %+v, %v, %v", b, started, err)
		}
		if took := time.Since(begin); took < 12*time.Second || took > 15*time.Second {
			t.Errorf("ready after %v; the task was after 12 s", took)
		}
		id := strings.Repeat("0", 31) + "1"
		if want := "ecs:demo_" + id + "_" + id + "-1234"; b.Target() != want {
			t.Errorf("target %q, want %q", b.Target(), want)
		}
		if !b.ExecRunning || b.LastStatus != "RUNNING" || b.Container != "bastion" || b.Version != "1.2.3" {
			t.Errorf("bastion %+v", b)
		}
		want := []string{
			"finding", "starting task definition bastion", "PROVISIONING", "PENDING", "exec agent pending", "ready " + id,
		}
		if !slices.Equal(events, want) {
			t.Errorf("events %q, want %q", events, want)
		}

		if len(f.runs) != 1 {
			t.Fatalf("%d RunTask calls", len(f.runs))
		}
		in := f.runs[0]
		vpc := in.NetworkConfiguration.AwsvpcConfiguration
		if in.LaunchType != types.LaunchTypeFargate || !in.EnableExecuteCommand || aws.ToInt32(in.Count) != 1 ||
			*in.StartedBy != spec.Owner.StartedBy || vpc.AssignPublicIp != types.AssignPublicIpDisabled ||
			!slices.Equal(vpc.Subnets, []string{"subnet-a", "subnet-b"}) || !slices.Equal(vpc.SecurityGroups, []string{"sg-1"}) {
			t.Errorf("RunTask %+v, %+v", in, vpc)
		}
		if tagValue(in.Tags, "bastion:owner") != testUserID || tagValue(in.Tags, "bastion:version") != "1.2.3" ||
			tagValue(in.Tags, "team") != "data" || len(in.Tags) != 3 {
			t.Errorf("tags %+v", in.Tags)
		}
		if token := *in.ClientToken; len(token) > 64 {
			t.Errorf("client token of %d characters", len(token))
		}

		again, started, err := m.Ensure(t.Context(), spec, nil)
		if err != nil || started || again.TaskARN != b.TaskARN {
			t.Errorf("second Ensure = %+v, %v, %v", again, started, err)
		}
	})
}

// TestEnsureWaitsForFound: a task that somebody else's process has started is waited for, not doubled.
func TestEnsureWaitsForFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		f.mine(time.Second, becomesReady)
		b, started, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
		if err != nil || started || !b.ExecRunning || len(f.runs) != 0 {
			t.Errorf("Ensure = %+v, %v, %v; %d runs", b, started, err, len(f.runs))
		}
	})
}

func TestEnsureTaskStops(t *testing.T) {
	for _, tt := range []struct {
		name   string
		plan   func(*fakeTask)
		want   []string
		next   string
		within time.Duration
	}{
		{
			name: "image",
			plan: func(t *fakeTask) {
				t.then(2*time.Second, status("PENDING")).then(5*time.Second, func(t *types.Task) {
					stops(types.TaskStopCodeTaskFailedToStart, "Task failed to start")(t)
					t.Containers[0].Reason = aws.String("CannotPullContainerError: pull image manifest has been retried 5 time(s)")
				})
			},
			want: []string{
				"start bastion", "in cluster demo", "stopped while it started: Task failed to start; container bastion: CannotPullContainerError",
			},
			next: "check the image's name", within: 9 * time.Second,
		},
		{
			name: "exit",
			plan: func(t *fakeTask) {
				t.then(2*time.Second, running).then(3*time.Second, func(t *types.Task) {
					stops(types.TaskStopCodeEssentialContainerExited, "Essential container in task exited")(t)
					t.Containers[0].ExitCode = aws.Int32(2)
				})
			},
			want: []string{"Essential container in task exited; container bastion exited with code 2"},
			next: "read the task's log", within: 6 * time.Second,
		},
		{
			name: "at once",
			plan: func(t *fakeTask) {
				t.then(0, stops(types.TaskStopCodeTaskFailedToStart, "ResourceInitializationError: x"))
			},
			want: []string{"ResourceInitializationError"}, next: "VPC endpoints", within: time.Second,
		},
		{
			name: "no reason",
			plan: func(t *fakeTask) { t.then(time.Second, status("STOPPED")) },
			want: []string{"ECS gives no reason"}, next: "aws ecs describe-tasks --cluster demo --tasks 0000",
			within: 3 * time.Second,
		},
		{
			name: "asked to stop",
			plan: func(t *fakeTask) {
				t.then(time.Second, func(t *types.Task) {
					running(t)
					t.DesiredStatus, t.StopCode, t.StoppedReason = aws.String("STOPPED"), types.TaskStopCodeUserInitiated,
						aws.String("bye")
				})
			},
			want: []string{"stopped while it started: bye"}, next: "somebody stopped it", within: 3 * time.Second,
		},
		{
			name: "deprovisioning is enough",
			plan: func(t *fakeTask) {
				t.then(time.Second, func(t *types.Task) {
					t.LastStatus, t.StoppedReason = aws.String("DEPROVISIONING"), aws.String("SpotInterruption: x")
				})
			},
			want: []string{"SpotInterruption"}, next: "FARGATE", within: 3 * time.Second,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{plan: tt.plan}
				begin := time.Now()
				b, _, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
				if b != nil {
					t.Errorf("bastion %+v", b)
				}
				checkError(t, err, fail.Start, tt.want, tt.next)
				if took := time.Since(begin); took > tt.within {
					t.Errorf("took %v, want at most %v", took, tt.within)
				}
				if f.count("RunTask") != 1 {
					t.Errorf("%d RunTask calls", f.count("RunTask"))
				}
			})
		})
	}
}

// TestEnsureFoundStops: a task that was found but is at its end is replaced, once.
func TestEnsureFoundStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		old := f.mine(0, func(t *fakeTask) {
			t.then(time.Second, status("PENDING")).then(3*time.Second, stops(types.TaskStopCodeEssentialContainerExited, "idle"))
		})
		b, started, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
		if err != nil || !started || b.TaskARN == *old.TaskArn || !b.ExecRunning {
			t.Errorf("Ensure = %+v, %v, %v", b, started, err)
		}
	})
}

// TestAwait: a task that is there is waited for; none is started, also where the one that was found ends.
func TestAwait(t *testing.T) {
	for name, tt := range map[string]struct {
		course func(*fakeTask) // nil: the task is missing
		found  bool
	}{
		"none":     {},
		"starting": {becomesReady, true},
		"ending": {func(t *fakeTask) {
			t.then(time.Second, status("PENDING")).then(3*time.Second, stops(types.TaskStopCodeEssentialContainerExited, "idle"))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{}
				if tt.course != nil {
					f.mine(0, tt.course)
				}
				b, err := New(Config{ECS: f}).Await(t.Context(), testSpec(), nil)
				if tt.found != (err == nil) || tt.found != (b != nil) || err != nil && fail.KindOf(err) != fail.NoTarget {
					t.Errorf("Await = %+v, %v", b, err)
				}
				if n := f.count("RunTask"); n != 0 {
					t.Errorf("%d RunTask calls", n)
				}
			})
		})
	}
}

// TestEnsurePassesOver: unusable tasks of the owner are reported, and another is started beside them.
func TestEnsurePassesOver(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*fakeTask)
		note   string
	}{
		"exec disabled": {func(t *fakeTask) { running(&t.Task); t.EnableExecuteCommand = false }, "without ECS Exec"},
		"exec stopped": {
			func(t *fakeTask) { running(&t.Task); exec("STOPPED", "no credentials")(&t.Task) },
			"has a stopped exec agent (no credentials)",
		},
		"other container": {func(t *fakeTask) { running(&t.Task); t.Containers[0].Name = aws.String("web") }, ""},
		"stopping":        {func(t *fakeTask) { t.LastStatus = aws.String("DEACTIVATING") }, ""},
		"other owner": {func(t *fakeTask) {
			t.Tags = []types.Tag{{Key: aws.String("bastion:owner"), Value: aws.String("arn:x")}}
		}, ""},
		"no owner":     {func(t *fakeTask) { t.Tags = nil }, ""},
		"other family": {func(t *fakeTask) { t.TaskDefinitionArn = aws.String("arn:aws:ecs:r:a:task-definition/bastion2:7") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{}
				spec := testSpec()
				if name == "other container" {
					spec.Container = "bastion"
				}
				old := f.mine(time.Hour, tt.change)
				if b, err := New(Config{ECS: f}).Find(t.Context(), spec); b != nil || err != nil {
					t.Fatalf("Find = %+v, %v", b, err)
				}
				var notes []string
				b, started, err := New(Config{ECS: f}).Ensure(t.Context(), spec, func(e Event) { notes = append(notes, e.Detail) })
				if err != nil || !started || b.TaskARN == *old.TaskArn {
					t.Errorf("Ensure = %+v, %v, %v", b, started, err)
				}
				if !strings.Contains(strings.Join(notes, "\n"), tt.note) {
					t.Errorf("events %q lack %q", notes, tt.note)
				}
				if len(f.stops) != 0 {
					t.Errorf("stopped %v", f.stops)
				}
			})
		})
	}
}

func TestEnsureTimeout(t *testing.T) {
	for _, tt := range []struct {
		name       string
		plan       func(*fakeTask)
		definition *types.TaskDefinition
		want       []string
		next       string
	}{
		{
			name: "pending",
			plan: func(t *fakeTask) { t.then(10*time.Second, status("PENDING")) },
			want: []string{"its state is still PENDING after ", "s (1m0s in all)", "left running"}, next: "bastion down",
		},
		{
			name:       "exec agent, no role",
			plan:       func(t *fakeTask) { t.then(20*time.Second, running) },
			definition: &types.TaskDefinition{},
			want:       []string{"exec agent is still pending after ", "Probable reason: the task has no task role"},
			next:       "ssmmessages:Create",
		},
		{
			name: "exec agent, network",
			plan: func(t *fakeTask) { t.then(20*time.Second, running) },
			definition: &types.TaskDefinition{
				TaskRoleArn: aws.String("arn:aws:iam::000000000000:role/bastion-task"),
			},
			want: []string{
				"may not reach ssmmessages.eu-central-1.amazonaws.com:443 from subnet-a",
				"role bastion-task may lack",
			},
			next: "com.amazonaws.eu-central-1.ssmmessages",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{plan: tt.plan, definition: tt.definition}
				spec := testSpec()
				spec.StartTimeout = time.Minute
				begin := time.Now()
				_, _, err := New(Config{ECS: f}).Ensure(t.Context(), spec, nil)
				checkError(t, err, fail.Timeout, tt.want, tt.next)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v is no DeadlineExceeded", err)
				}
				if took := time.Since(begin); took != time.Minute {
					t.Errorf("took %v", took)
				}
				if len(f.live()) != 1 {
					t.Errorf("live tasks %v", f.live())
				}
			})
		})
	}
}

// TestEnsureCallerDeadline: the caller's deadline counts too, and ends a call that hangs.
func TestEnsureCallerDeadline(t *testing.T) {
	for _, tt := range []struct {
		name string
		hang string // this call
		from int    // from the n-th on
		want string
	}{
		{name: "while waiting", want: "its state is still PROVISIONING after 5s"},
		{name: "in a poll", hang: "DescribeTasks", from: 3, want: "its state is still PROVISIONING after 5s"},
		{name: "finding", hang: "ListTasks", from: 1, want: "find your bastion"},
		{name: "starting", hang: "RunTask", from: 1, want: "start a bastion"},
		{name: "settling", hang: "DescribeTasks", from: 1, want: "find your bastion"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{plan: func(*fakeTask) {}}
				f.before = func(ctx context.Context, call string) error {
					if call == tt.hang && f.count(call) >= tt.from {
						<-ctx.Done()
					}
					return nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				begin := time.Now()
				_, _, err := New(Config{ECS: f}).Ensure(ctx, testSpec(), nil)
				checkError(t, err, fail.Timeout, []string{tt.want}, "")
				if took := time.Since(begin); took != 5*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestEnsureCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		begin := time.Now()
		_, _, err := New(Config{ECS: f}).Ensure(ctx, testSpec(), nil)
		if !errors.Is(err, context.Canceled) || fail.KindOf(err) != fail.Other || time.Since(begin) != 3*time.Second {
			t.Errorf("after %v: %v (kind %v)", time.Since(begin), err, fail.KindOf(err))
		}
	})
}

// TestEnsureExecStops: a started task whose exec agent gives up is of no use and is stopped.
func TestEnsureExecStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{
			plan: func(t *fakeTask) {
				t.then(2*time.Second, running).then(4*time.Second, exec("STOPPED", "cannot start"))
			},
			definition: &types.TaskDefinition{
				TaskRoleArn: aws.String("r"),
				ContainerDefinitions: []types.ContainerDefinition{
					{Name: aws.String("bastion"), ReadonlyRootFilesystem: aws.Bool(true)},
				},
			},
		}
		_, _, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
		checkError(
			t,
			err,
			fail.Start,
			[]string{"has a stopped exec agent (cannot start)", "root file system is read-only"},
			"mount writable",
		)
		if len(f.live()) != 0 {
			t.Errorf("left running: %v", f.live())
		}
	})
}

func TestEnsureWrongContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := testSpec()
		spec.Container = "typo"
		_, _, err := New(Config{ECS: &fakeECS{}}).Ensure(t.Context(), spec, nil)
		checkError(t, err, fail.Usage, []string{"has no such container; it has bastion"}, "set the container")
	})
}

func TestEnsureExecDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{plan: func(t *fakeTask) { t.EnableExecuteCommand = false }}
		_, _, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
		checkError(t, err, fail.Start, []string{"was started without ECS Exec (enableExecuteCommand)"}, "bastion down")
	})
}

// TestEnsureHidden: ECS may not show a new task for a while.
func TestEnsureHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{hideFor: 5 * time.Second}
		b, started, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
		if err != nil || !started || !b.ExecRunning || len(f.tasks) != 1 {
			t.Errorf("Ensure = %+v, %v, %v; %d tasks", b, started, err, len(f.tasks))
		}
	})
}

func throttled() error {
	return &smithy.GenericAPIError{Code: "ThrottlingException", Message: "Rate exceeded"}
}

// TestEnsurePollErrors: failed polls are borne for a while, but not those that will not change.
func TestEnsurePollErrors(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails int // polls in a row, with one between that goes well
		err   error
		kind  fail.Kind
		next  string
		polls int // that failed
	}{
		{"few throttled", maxPollFailures - 1, throttled(), 0, "", 0},
		{"all throttled", 1000, throttled(), fail.Start, "wait a minute", maxPollFailures},
		{
			"denied", 1000, &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"},
			fail.Denied, "ask for the IAM permission ecs:DescribeTasks", 1,
		},
		{
			"expired", 1000, &smithy.GenericAPIError{Code: "ExpiredTokenException", Message: "no"}, fail.Credentials,
			"sign in again", 1,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{}
				polls, failed := 0, 0
				f.before = func(_ context.Context, call string) error {
					if call == "DescribeTasks" && f.count("RunTask") > 0 {
						if polls++; polls > 2 && polls%(tt.fails+1) != 0 {
							failed++
							return tt.err
						}
					}
					return nil
				}
				b, _, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
				if tt.kind == 0 {
					if err != nil || !b.ExecRunning {
						t.Errorf("Ensure = %+v, %v", b, err)
					}
					return
				}
				checkError(t, err, tt.kind, nil, tt.next)
				if failed != tt.polls {
					t.Errorf("%d polls failed, want %d", failed, tt.polls)
				}
			})
		})
	}
}

// TestEnsureAgain: after the bastion was stopped, or has ended by itself, Ensure starts another one. It does so although ECS still
// knows the client token, and whatever ECS answers to a known token. It takes at most two calls if the ended tasks are visible.
// Then a process whose answer was lost before has the same token, and gets the same task.
func TestEnsureAgain(t *testing.T) {
	for _, tt := range []struct{ stale, blind bool }{{false, false}, {true, false}, {false, true}} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{stale: tt.stale, blind: tt.blind, plan: func(t *fakeTask) { t.then(0, running).then(0, exec("RUNNING", "")) }}
				m := New(Config{ECS: f})
				seen := make(map[string]bool)
				for i := range maxTokens + 3 {
					runs := f.count("RunTask")
					b, started, err := m.Ensure(t.Context(), testSpec(), nil)
					if err != nil || !started || seen[b.TaskARN] {
						t.Fatalf("Ensure %d = %+v, %v, %v", i, b, started, err)
					}
					seen[b.TaskARN] = true
					if runs = f.count("RunTask") - runs; !tt.blind && runs != min(i, 1)+1 || tt.blind && runs != min(i, maxTokens)+1 {
						t.Errorf("Ensure %d: %d RunTask calls", i, runs)
					}
					if i%2 == 0 {
						if stopped, _, err := m.Stop(t.Context(), testSpec(), "test", false); err != nil || len(stopped) != 1 {
							t.Fatalf("Stop = %+v, %v", stopped, err)
						}
						continue
					}
					if err := sleep.For(t.Context(), 2*time.Second); err != nil {
						t.Fatal(err)
					}
					stops(types.TaskStopCodeEssentialContainerExited, "idle")(&f.tasks[len(f.tasks)-1].Task)
				}
			})
		})
	}
}

// TestEnsureAfterFailure: a task that could not start is tried anew by the next call, at once.
func TestEnsureAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		f.plan = func(t *fakeTask) {
			if len(f.tasks) == 1 {
				t.then(0, stops(types.TaskStopCodeTaskFailedToStart, "CannotPullContainerError"))
				return
			}
			becomesReady(t)
		}
		m := New(Config{ECS: f})
		_, _, err := m.Ensure(t.Context(), testSpec(), nil)
		checkError(t, err, fail.Start, []string{"CannotPull"}, "image")
		if b, started, err := m.Ensure(t.Context(), testSpec(), nil); err != nil || !started || !b.ExecRunning {
			t.Errorf("second Ensure = %+v, %v, %v", b, started, err)
		}
	})
}

// TestEnsureUnseen: a second process that does not see the first one's task yet gets that task, whatever ran before.
func TestEnsureUnseen(t *testing.T) {
	for _, ended := range []int{0, 1, 5} {
		t.Run(fmt.Sprintf("after %d", ended), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{hideFor: 5 * time.Second}
				for range ended {
					if _, _, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil); err != nil {
						t.Fatal(err)
					}
					if _, _, err := New(Config{ECS: f}).Stop(t.Context(), testSpec(), "test", false); err != nil {
						t.Fatal(err)
					}
				}
				var first *Bastion
				var group sync.WaitGroup
				group.Go(func() {
					var err error
					if first, _, err = New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil); err != nil {
						t.Error(err)
					}
				})
				if err := sleep.For(t.Context(), time.Second); err != nil {
					t.Fatal(err)
				}
				second, _, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
				group.Wait()
				if err != nil || first == nil || second.TaskARN != first.TaskARN || len(f.tasks) != ended+1 {
					t.Errorf("%+v, %v; the first is %+v; %d tasks", second, err, first, len(f.tasks))
				}
			})
		})
	}
}

// TestEnsureConflict: a client token that another request has taken is not used.
func TestEnsureConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeECS{}
		f.before = func(_ context.Context, call string) error {
			if call == "RunTask" && f.count("RunTask") <= 2 {
				return &types.ConflictException{Message: aws.String("clientToken in use")}
			}
			return nil
		}
		if b, started, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil); err != nil || !started {
			t.Errorf("Ensure = %+v, %v, %v", b, started, err)
		}
	})
}

// TestEnsureTriesAgain: RunTask is called again, with the same client token, where what AWS answers passes by itself, and not without
// end.
func TestEnsureTriesAgain(t *testing.T) {
	role := &types.InvalidParameterException{Message: aws.String(
		"Unable to assume the service linked role. Please verify that the ECS service linked role exists.")}
	capacity := &types.ClientException{Message: aws.String("Capacity is unavailable at this time. Please try again later")}
	other := &types.ClientException{Message: aws.String("Something else.")}
	for _, tt := range []struct {
		err      error
		failures int
		want     bool
		calls    int
	}{
		{role, 2, true, 3}, {capacity, 1, true, 2}, {capacity, 100, false, maxRuns}, {other, 100, false, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeECS{}
			f.before = func(_ context.Context, call string) error {
				if call == "RunTask" && f.count("RunTask") <= tt.failures {
					return &smithy.OperationError{ServiceID: "ECS", OperationName: "RunTask", Err: tt.err}
				}
				return nil
			}
			_, started, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
			if started != tt.want || tt.want && err != nil || !tt.want && !errors.Is(err, tt.err) {
				t.Errorf("%v: started %v, %v", tt.err, started, err)
			}
			if calls := f.count("RunTask"); calls != tt.calls || len(f.tasks) > 1 {
				t.Errorf("%v: %d calls, %d tasks", tt.err, calls, len(f.tasks))
			}
		})
	}
}

// TestEnsureWaitsForCapacity: that Fargate has none may also come as a failure in an answer without error.
func TestEnsureWaitsForCapacity(t *testing.T) {
	for places, want := range map[int]bool{2: true, 100: false} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeECS{places: places}
			_, started, err := New(Config{ECS: f}).Ensure(t.Context(), testSpec(), nil)
			if started != want || want && err != nil {
				t.Errorf("after %d: started %v, %v", places, started, err)
			}
			if !want {
				checkError(t, err, fail.Start, []string{"Capacity is unavailable"}, "availability zones")
			}
			if calls := f.count("RunTask"); calls != min(places+1, maxRuns) {
				t.Errorf("after %d: %d calls", places, calls)
			}
		})
	}
}

// TestEnsureTogether: processes that find no task at the same moment end up with one task, and the same.
func TestEnsureTogether(t *testing.T) {
	for _, tt := range []struct {
		name   string
		differ bool // their requests differ, so that their client tokens do
	}{{"same request", false}, {"different requests", true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 4
				f := &fakeECS{}
				// All list before any runs a task; then each RunTask takes its time.
				var listed sync.WaitGroup
				listed.Add(n)
				f.before = func(ctx context.Context, call string) error {
					switch call {
					case "RunTask":
						listed.Done()
						listed.Wait()
						return sleep.For(ctx, rand.N(100*time.Millisecond))
					case "StopTask":
						return sleep.For(ctx, 100*time.Millisecond)
					}
					return nil
				}
				var found [n]*Bastion
				var group sync.WaitGroup
				for i := range n {
					group.Go(func() {
						spec := testSpec()
						if tt.differ {
							spec.Tags = map[string]string{"process": fmt.Sprint(i)}
						}
						var err error
						if found[i], _, err = New(Config{ECS: f}).Ensure(t.Context(), spec, nil); err != nil {
							t.Errorf("process %d: %v", i, err)
						}
					})
				}
				group.Wait()
				live := f.live()
				if len(live) != 1 {
					t.Fatalf("live tasks %v", live)
				}
				for i, b := range found {
					if b == nil || b.TaskID != live[0] || !b.ExecRunning {
						t.Errorf("process %d has %+v; live is %s", i, b, live[0])
					}
				}
				if want := map[bool]int{false: 1, true: n}[tt.differ]; len(f.tasks) != want {
					t.Errorf("%d tasks were started, want %d", len(f.tasks), want)
				}
			})
		})
	}
}

func TestEnsureNotConfigured(t *testing.T) {
	m := New(Config{ECS: &fakeECS{}})
	spec := testSpec()
	spec.TaskDefinition = ""
	_, _, err := m.Ensure(t.Context(), spec, nil)
	checkError(t, err, fail.Usage, []string{"no task definition"}, "set the task definition")
	spec = testSpec()
	spec.Subnets = nil
	_, _, err = m.Ensure(t.Context(), spec, nil)
	checkError(t, err, fail.Usage, []string{"choose the bastion's subnets: none are set"}, "set the ids or the tags")
	spec = testSpec()
	spec.Owner = Owner{}
	_, _, err = m.Ensure(t.Context(), spec, nil)
	checkError(t, err, fail.Usage, []string{"owner is not known"}, "")
}

func checkError(t *testing.T, err error, kind fail.Kind, want []string, next string) {
	t.Helper()
	if err == nil || fail.KindOf(err) != kind {
		t.Errorf("kind %v, want %v: %v", fail.KindOf(err), kind, err)
		return
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("message %q lacks %q", err, text)
		}
	}
	if !strings.Contains(fail.NextOf(err), next) {
		t.Errorf("next step %q lacks %q", fail.NextOf(err), next)
	}
}
