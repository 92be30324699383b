package bastions

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/internal/words"
)

const (
	tokenWindow = 10 * time.Minute // lifetime of RunTask's client tokens
	maxTokens   = 16               // tokens to try before a random one; two suffice if ECS lists its tasks

	pollFirst   = 250 * time.Millisecond
	pollLongest = 2 * time.Second
	// unseenTime is how long IAM may deny access to a new task: until ECS shows the task's tags, a policy on the owner's tag
	// does not match.
	unseenTime = 10 * time.Second

	maxRuns  = 5               // calls of RunTask with transient answers...
	runFirst = 2 * time.Second // ...and the pause after the first; each further pause is twice as long

	maxPollFailures = 5 // consecutive failed polls, each after the SDK's own attempts

	cleanupTime = 10 * time.Second // for calls after the caller's context has ended
)

// Ensure returns the owner's bastion once its exec agent runs, and whether this call started it. It uses the task that Find
// would return, or starts one. Of a service it only waits for a task. It calls report, which may be nil, from this goroutine at each
// change of state.
//
// It waits for the Spec's StartTimeout, within ctx; then the error is of kind fail.Timeout and names the step that hung. The
// task stays for the next call or for Stop, also if ctx is canceled. If the task stops while it starts, the error is of kind
// fail.Start with ECS's reason.
func (m *Manager) Ensure(ctx context.Context, spec Spec, report func(Event)) (*Bastion, bool, error) {
	if spec.Service != "" {
		return m.ensure(ctx, spec, report, m.awaitShared)
	}
	return m.ensure(ctx, spec, report, m.start)
}

// Await is Ensure without a start: if the owner has no task, it fails with fail.NoTarget.
func (m *Manager) Await(ctx context.Context, spec Spec, report func(Event)) (*Bastion, error) {
	b, _, err := m.ensure(ctx, spec, report, func(context.Context, Spec, *waiter) (Bastion, bool, error) {
		next := "bastion up starts another"
		if spec.Service != "" {
			next = "ECS starts another"
		}
		return Bastion{}, false, fail.New(fail.NoTarget, "find a bastion in cluster "+spec.cluster(), errNoTask, next)
	})
	return b, err
}

// ensure implements Ensure. It calls start if the owner has no task.
func (m *Manager) ensure(ctx context.Context, spec Spec, report func(Event),
	start func(context.Context, Spec, *waiter) (Bastion, bool, error),
) (*Bastion, bool, error) {
	w := &waiter{m: m, spec: spec, report: report, begin: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(spec.StartTimeout, DefaultStartTimeout))
	defer cancel()

	for first := true; ; first = false {
		w.set("finding", "")
		usable, notes, err := m.candidates(ctx, spec)
		if err != nil {
			return nil, false, err
		}
		for _, note := range notes {
			m.log.WarnContext(ctx, note, "cluster", spec.cluster())
			w.set("finding", note)
		}
		var b Bastion
		started := false
		if len(usable) > 0 {
			b = usable[0]
		} else if b, started, err = start(ctx, spec, w); err != nil {
			return nil, false, err
		}
		b, err = w.wait(ctx, b, started)
		if err == nil && !started {
			// Compare what a starting task does not show yet, such as its network interface.
			before := b.Unchecked
			b.Unchecked, err = m.confirm(ctx, spec, b)
			switch {
			case fail.KindOf(err) == fail.NoTarget: // each round finds one fewer
				m.log.WarnContext(ctx, "a task is passed over", "task", b.TaskID, "err", err)
				continue
			case err == nil && b.Unchecked != "" && b.Unchecked != before:
				m.log.WarnContext(ctx, b.uncheckedNote(), "cluster", spec.cluster())
				w.set("finding", b.uncheckedNote())
			}
		}
		if err == nil {
			return &b, started, nil
		}
		// The found task may have been about to end; one more round starts another.
		if (first || spec.Service != "") && !started && b.Stopping() && ctx.Err() == nil {
			m.log.InfoContext(ctx, "the bastion stopped while waiting for it; looking again", "task", b.TaskID)
			continue
		}
		// A task without an exec agent is useless, and a task that its owner may not see could not be found again.
		switch {
		case !started || b.Stopping():
		case b.ExecStatus == "STOPPED":
			m.discard(ctx, b, "bastion: the exec agent did not start")
		case fail.KindOf(err) == fail.Denied:
			m.discard(ctx, b, "bastion: its owner may not look at it")
		}
		return nil, started, err
	}
}

// start runs a task. If another process was faster, it returns that process's task and false.
func (m *Manager) start(ctx context.Context, spec Spec, w *waiter) (Bastion, bool, error) {
	op := "start a bastion in cluster " + spec.cluster()
	input, err := m.request(ctx, op, spec, w)
	if err != nil {
		return Bastion{}, false, err
	}
	token := tokenSeed{window: time.Now().Truncate(tokenWindow).Unix()}
	for n := range maxTokens + 1 {
		input.ClientToken = nil // the SDK makes a random one
		if n < maxTokens {
			input.ClientToken = aws.String(clientToken(input, spec.Owner, token))
		}
		out, err := m.runTask(ctx, input, w)
		if _, conflict := errors.AsType[*types.ConflictException](err); conflict && input.ClientToken != nil {
			token.others++ // the token belongs to another request
			continue
		}
		if mayHaveRun(err) {
			b, found, lookErr := m.startedUnseen(ctx, spec, w)
			if found {
				return b, true, nil
			}
			if lookErr == nil && input.ClientToken != nil { // ECS answers a known token with its task
				out, err = m.runTask(ctx, input, w)
			}
			if mayHaveRun(err) {
				return Bastion{}, false, unseenError(op, err)
			}
		}
		if err != nil {
			return Bastion{}, false, namedError(op, "ecs:RunTask", err, "--cluster "+aws.ToString(input.Cluster),
				"--task-definition "+aws.ToString(input.TaskDefinition))
		}
		if len(out.Tasks) == 0 {
			return Bastion{}, false, failuresError(op, out.Failures)
		}
		b := fromTask(spec, &out.Tasks[0])
		if b.Refused = refusal(spec, &out.Tasks[0]); b.Refused != "" {
			m.log.WarnContext(ctx, "ECS answered with a task that was not asked for; trying another client token",
				"task", b.TaskID, "difference", b.Refused)
			token.others++
			continue
		}
		m.checked.add(spec, b.TaskARN)
		now, ok := awsmiddleware.GetServerTime(out.ResultMetadata)
		if !ok {
			now = time.Now()
		}
		chosen, err := m.settle(ctx, spec, b, now)
		if errors.Is(err, errReplayed) {
			m.log.DebugContext(ctx, "client token belongs to a task that has ended; trying the one after the last", "task", b.TaskID)
			token.follow(m.lastEnded(ctx, spec, b))
			continue
		}
		if err != nil {
			return Bastion{}, false, err
		}
		return chosen, chosen.TaskARN == b.TaskARN, nil
	}
	return Bastion{}, false, fail.New(fail.Start, op, errors.New("ECS answers every request with a task that has ended"),
		"wait ten minutes, then try again")
}

// request returns the RunTask request for a bastion, with its network.
func (m *Manager) request(ctx context.Context, op string, spec Spec, w *waiter) (*ecs.RunTaskInput, error) {
	if spec.TaskDefinition == "" {
		return nil, fail.New(fail.Usage, op, errors.New("no task definition is set"), "set the task definition to run")
	}
	w.set("starting", "task definition "+lastPart(spec.TaskDefinition))
	network, err := m.network(ctx, spec)
	if err != nil {
		return nil, err
	}
	input, err := m.runInput(spec, network)
	if err != nil {
		return nil, fail.New(fail.Usage, op, err, "")
	}
	return input, nil
}

// lastEnded returns the latest of the ended b and the owner's other ended tasks. It ignores tasks that ECS does not list. By
// its reference, ECS accepts no other filter with startedBy; if it enforces that, more client tokens are needed.
func (m *Manager) lastEnded(ctx context.Context, spec Spec, b Bastion) Bastion {
	op := "find ended bastions in cluster " + spec.cluster()
	arns, err := m.listARNs(ctx, op, &ecs.ListTasksInput{
		Cluster: aws.String(spec.cluster()), StartedBy: aws.String(spec.Owner.StartedBy), DesiredStatus: types.DesiredStatusStopped,
	})
	for some := range slices.Chunk(arns, maxDescribed) {
		tasks, denied, describeErr := m.describePermitted(ctx, op, spec, some)
		err = cmp.Or(err, describeErr, denied)
		for i := range tasks {
			if ended := fromTask(spec, &tasks[i]); compareEnded(ended, b) > 0 {
				b = ended
			}
		}
	}
	if err != nil {
		m.log.DebugContext(ctx, "not all ended tasks can be seen; it may take more client tokens", "err", err)
	}
	return b
}

// LastEnded returns the owner's newest task that has stopped, as far as ECS still knows it (about an hour); nil if there is none.
func (m *Manager) LastEnded(ctx context.Context, spec Spec) *Bastion {
	last := m.lastEnded(ctx, spec, Bastion{})
	if last.TaskARN == "" {
		return nil
	}
	return &last
}

// compareEnded orders ended tasks by age. Every process must see the same order.
func compareEnded(a, b Bastion) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.TaskARN, b.TaskARN))
}

// runTask calls RunTask, and retries transient answers that the SDK takes as final: Fargate has no capacity, or ECS cannot
// assume its service-linked role yet. It retries only with a client token, which ensures that ECS starts one task at most.
func (m *Manager) runTask(ctx context.Context, input *ecs.RunTaskInput, w *waiter) (*ecs.RunTaskOutput, error) {
	for try, delay := 1, runFirst; ; try, delay = try+1, 2*delay {
		out, err := m.ecs.RunTask(ctx, input)
		answer := awsanswer.Of(err)
		if err == nil && len(out.Tasks) == 0 { // Fargate answers in both forms
			answer = awsanswer.Judge(awsanswer.Answer{Operation: "RunTask", Message: reasons(out.Failures)})
		}
		if try == maxRuns || input.ClientToken == nil || answer.Class != awsanswer.Transient || retriedBySDK(err) {
			return out, err
		}
		w.set("starting", "trying again: "+answer.String())
		if sleep.For(ctx, jitter(delay)) != nil {
			if errors.Is(ctx.Err(), context.Canceled) {
				err = ctx.Err()
			}
			return out, err
		}
	}
}

var errReplayed = errors.New("the task was started by an earlier request and has ended")

// settle returns the bastion that all concurrent processes choose after one of them started b. now is the server's time. It
// stops b if another was chosen. It returns errReplayed if ECS answered RunTask with an old task.
func (m *Manager) settle(ctx context.Context, spec Spec, b Bastion, now time.Time) (Bastion, error) {
	if b.Stopping() {
		return b, errReplayed // a new task is not
	}
	usable, _, err := m.candidates(ctx, spec)
	if err != nil {
		return b, err
	}
	mine := slices.IndexFunc(usable, func(o Bastion) bool { return o.TaskARN == b.TaskARN })
	if mine < 0 { // not listed yet, or never again
		current, err := m.Get(ctx, spec, b.TaskARN)
		kind := fail.KindOf(err)
		switch {
		case err != nil && kind != fail.NoTarget && kind != fail.Denied:
			return b, err
		case err == nil && current.Stopping():
			// Either b is an old task, or it failed at once; the caller learns that by waiting for it.
			if current.StopCode == string(types.TaskStopCodeUserInitiated) || now.Sub(current.CreatedAt) >= 2*time.Second {
				return b, errReplayed
			}
			return *current, nil
		case err == nil:
			b = *current
		}
		usable = append(usable, b)
		slices.SortFunc(usable, compare)
	}
	if usable[0].TaskARN != b.TaskARN {
		m.log.InfoContext(ctx, "another process started a bastion at the same time; using that one",
			"task", usable[0].TaskID, "stopped", b.TaskID)
		m.discard(ctx, b, "bastion: another task of the same owner started first")
	}
	return usable[0], nil
}

// discard stops a useless task of this process, even after ctx has ended.
func (m *Manager) discard(ctx context.Context, b Bastion, reason string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err := m.stop(ctx, b, reason); err != nil {
		m.log.WarnContext(ctx, "cannot stop a task that is not needed", "task", b.TaskID, "err", err)
	}
}

func (m *Manager) runInput(spec Spec, network *types.NetworkConfiguration) (*ecs.RunTaskInput, error) {
	owner, err := spec.Owner.tag()
	if err != nil {
		return nil, err
	}
	tags := maps.Clone(spec.Tags)
	if tags == nil {
		tags = make(map[string]string)
	}
	for key := range tags {
		if key != tagOwner && strings.EqualFold(key, tagOwner) {
			return nil, fmt.Errorf("the tag %s cannot be set: IAM does not tell it from %s", key, tagOwner)
		}
	}
	tags[tagOwner] = owner
	if v := versionTag(m.version); v != "" {
		tags[tagVersion] = v
	}
	input := &ecs.RunTaskInput{
		Cluster:              aws.String(spec.cluster()),
		TaskDefinition:       aws.String(spec.TaskDefinition),
		Count:                aws.Int32(1),
		LaunchType:           types.LaunchTypeFargate,
		EnableExecuteCommand: true,
		EnableECSManagedTags: true,
		PropagateTags:        types.PropagateTagsTaskDefinition,
		StartedBy:            aws.String(spec.Owner.StartedBy),
		NetworkConfiguration: network,
		Overrides:            overrides(spec.Size),
	}
	if spec.Spot { // ECS takes a launch type or capacity providers
		input.LaunchType = ""
		input.CapacityProviderStrategy = []types.CapacityProviderStrategyItem{{CapacityProvider: aws.String(providerSpot), Weight: 1}}
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		input.Tags = append(input.Tags, types.Tag{Key: aws.String(key), Value: aws.String(tags[key])})
	}
	return input, nil
}

// tokenSeed distinguishes a client token from earlier ones for the same request. Processes with the same knowledge have the
// same seed.
type tokenSeed struct {
	window int64  // the time, in steps of tokenWindow
	after  string // ARN of the preceding, ended task; "" for the window's first
	others int    // tokens that belonged to other requests
}

// follow makes the seed that of the task after b.
func (s *tokenSeed) follow(b Bastion) {
	if s.after == b.TaskARN {
		s.others++ // ECS answers this token with an older task
	}
	s.after = b.TaskARN
}

// clientToken derives the token from the request, its owner, the time and the preceding task. ECS refuses a repeated token with
// other parameters.
func clientToken(input *ecs.RunTaskInput, owner Owner, seed tokenSeed) string {
	tags := make(map[string]string)
	for _, t := range input.Tags {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	vpc := input.NetworkConfiguration.AwsvpcConfiguration
	asked, err := json.Marshal([]any{
		owner.ARN, aws.ToString(input.Cluster), aws.ToString(input.TaskDefinition), vpc.Subnets, vpc.SecurityGroups,
		vpc.AssignPublicIp, tags, input.Overrides, input.CapacityProviderStrategy, seed.window, seed.after, seed.others,
	})
	if err != nil {
		panic(err) // only strings and numbers
	}
	sum := sha256.Sum256(asked)
	return "bastion-" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// waiter follows a task until it is ready. It belongs to one goroutine.
type waiter struct {
	m      *Manager
	spec   Spec
	report func(Event)
	begin  time.Time

	state string
	since time.Time // when state began
}

// set notes the state that w waits for and reports changes and details.
func (w *waiter) set(state, detail string) {
	if state == w.state && detail == "" {
		return
	}
	if state != w.state {
		w.state, w.since = state, time.Now()
	}
	if w.report != nil {
		w.report(Event{state, detail})
	}
}

// wait polls until the bastion is ready. fresh says that it was just started. It returns the task's last known state, also with
// an error.
func (w *waiter) wait(ctx context.Context, b Bastion, fresh bool) (Bastion, error) {
	op := fmt.Sprintf("start bastion %s in cluster %s", b.TaskID, b.Cluster)
	execStatus := ""
	failures, began := 0, time.Now()
	for delay, state := pollFirst, w.state; ; delay = min(delay*3/2, pollLongest) {
		switch ok, why := b.usable(); {
		case b.Stopping():
			return b, stoppedError(op, b)
		case b.ExecRunning:
			w.set("ready", b.TaskID)
			return b, nil
		case !ok:
			return b, w.unusable(ctx, op, b, why)
		case b.LastStatus != "RUNNING":
			w.set(b.LastStatus, "")
		case b.ExecStatus != execStatus || w.state != "exec agent":
			execStatus = b.ExecStatus
			w.set("exec agent", strings.ToLower(execStatus))
		}
		if state != w.state { // the next state may follow soon
			delay, state = pollFirst, w.state
		}

		if sleep.For(ctx, jitter(delay)) != nil {
			return b, w.ended(ctx, op, b)
		}
		tasks, err := w.m.describe(ctx, op, w.spec, []string{b.TaskARN})
		if ctx.Err() != nil {
			return b, w.ended(ctx, op, b)
		}
		if fresh && fail.KindOf(err) == fail.Denied && time.Since(began) < unseenTime {
			continue
		}
		if err != nil {
			if failures++; failures >= maxPollFailures || !transient(err) {
				return b, err
			}
			w.m.log.WarnContext(ctx, "cannot see how the bastion is doing; trying again", "err", err)
			continue
		}
		failures, fresh = 0, false
		if len(tasks) > 0 { // ECS may not know a new task for a moment
			b = fromTask(w.spec, &tasks[0])
		}
	}
}

// unusable returns the error for a task that runs but will never be reachable.
func (w *waiter) unusable(ctx context.Context, op string, b Bastion, why string) error {
	err := fmt.Errorf("the task %s", why)
	switch {
	case !b.ExecEnabled:
		return fail.New(fail.Start, op, err, "stop it (bastion down) and start another (bastion up)")
	case b.ExecStatus != "STOPPED":
		return fail.New(fail.Usage, op, err, "set the container that bastiond runs in")
	}
	return withFindings(fail.Start, op, err, w.m.Diagnose(ctx, w.spec, b))
}

// ended returns the error for a wait that ctx ended.
func (w *waiter) ended(ctx context.Context, op string, b Bastion) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s: %w", op, ctx.Err())
	}
	now := time.Now()
	what := "its state is still " + w.state
	if w.state == "exec agent" {
		agent := strings.ToLower(cmp.Or(b.ExecStatus, "missing"))
		what = "the task runs but its exec agent is still " + agent + words.Parenthesis(b.ExecReason)
	}
	err := fmt.Errorf("%s after %s (%s in all); the task is left running", what,
		now.Sub(w.since).Round(time.Second), now.Sub(w.begin).Round(time.Second))
	if w.state != "exec agent" {
		return fail.New(fail.Timeout, op, &deadline{err},
			"try again to go on waiting, allow more time, or bastion down to stop it")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return withFindings(fail.Timeout, op, &deadline{err}, w.m.Diagnose(ctx, w.spec, b))
}

// deadline is an error that wraps context.DeadlineExceeded without its text.
type deadline struct{ error }

func (*deadline) Unwrap() error { return context.DeadlineExceeded }

// transient reports whether a call may succeed later although all of the SDK's attempts failed.
func transient(err error) bool {
	switch awsanswer.ClassOf(err) {
	case awsanswer.Transient, awsanswer.Throttled:
		return true
	case awsanswer.None:
	default:
		return false
	}
	return retriedBySDK(err)
}

// retriedBySDK reports whether the SDK itself retries after err.
func retriedBySDK(err error) bool {
	return retry.IsErrorRetryables(retry.DefaultRetryables).IsErrorRetryable(err) == aws.TrueTernary
}

// jitter returns d, give or take a fifth.
func jitter(d time.Duration) time.Duration {
	return backoff.Between(d*4/5, d*6/5, rand.N[time.Duration])
}
