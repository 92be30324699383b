package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// APIFaults are disturbances of the control plane. The zero value disturbs nothing. Actions have their IAM names, such as
// "ssm:StartSession"; * stands for any text. A count is how many times a fault occurs; a negative one means always.
type APIFaults struct {
	Throttle     map[string]int      `json:"throttle,omitempty"`      // answer Rate exceeded
	Rate         map[string]float64  `json:"rate,omitempty"`          // throttle calls beyond this many per second
	Errors       map[string]APIError `json:"errors,omitempty"`        // answer an error
	Deny         []string            `json:"deny,omitempty"`          // deny actions to everyone
	LatencyMS    int                 `json:"latency_ms,omitempty"`    // before each answer
	ResumeDenied int                 `json:"resume_denied,omitempty"` // ResumeSession answers 403
	// StartSession and ExecuteCommand: TargetNotConnected
	NotConnected int `json:"not_connected,omitempty"`
	// NotConnectedMS is the same for a span of time from the setting of the faults.
	NotConnectedMS int `json:"not_connected_ms,omitempty"`
	// NodeNotConnected is the same for StartSession to nodes alone, whatever their control channels.
	NodeNotConnected bool   `json:"node_not_connected,omitempty"`
	TaskFailures     int    `json:"task_failures,omitempty"` // tasks that stop before they run...
	TaskReason       string `json:"task_reason,omitempty"`   // ...and the reason; there is a default
	NoExecAgent      bool   `json:"no_exec_agent,omitempty"` // the exec agent of new tasks stays PENDING
	ExecSilent       bool   `json:"exec_silent,omitempty"`   // the exec agent is RUNNING but never answers

	// ExecOwnerless leaves the sessions of ECS Exec without the tag of their owner, so that a user's policy lets nobody end them.
	ExecOwnerless bool `json:"exec_ownerless,omitempty"`

	// SessionsPerContainer bounds a container's sessions at a time, those of ECS Exec included. 0 means unlimited. SessionsOver
	// says what happens to another one: "" is AWS's error; with OverSilent it starts without an agent.
	SessionsPerContainer int    `json:"sessions_per_container,omitempty"`
	SessionsOver         string `json:"sessions_over,omitempty"`

	// Documents says what happens to StartSession with a document on an ECS target: RefuseDenied, RefuseInvalid or OverSilent.
	Documents map[string]string `json:"documents,omitempty"`
}

// Results of a refused session.
const (
	OverSilent    = "silent"  // it starts without an agent
	RefuseDenied  = "denied"  // AccessDeniedException
	RefuseInvalid = "invalid" // InvalidDocument
)

// APIError is an error for the lab to answer.
type APIError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Status  int    `json:"status,omitempty"` // 0 is 400
	Count   int    `json:"count,omitempty"`  // 0: always
}

const defaultTaskReason = "CannotPullContainerError: The task cannot pull the image from the registry: " +
	"there is a connection issue between the task and the registry. Check your task network configuration."

// faults applies APIFaults.
type faults struct {
	now func() time.Time

	mu      sync.Mutex
	set     APIFaults
	since   time.Time          // when set was set
	buckets map[string]*bucket // by pattern of Rate
}

// bucket lets a burst of one second through.
type bucket struct {
	tokens float64
	last   time.Time
}

func (f *faults) replace(set APIFaults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set, f.since, f.buckets = set.clone(), f.now(), make(map[string]*bucket)
}

func (f *faults) get() APIFaults {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set.clone()
}

func (a APIFaults) clone() APIFaults {
	a.Throttle, a.Errors = maps.Clone(a.Throttle), maps.Clone(a.Errors)
	a.Rate, a.Documents = maps.Clone(a.Rate), maps.Clone(a.Documents)
	return a
}

// before is the hook of every call.
func (f *faults) before(ctx context.Context, c *awsapi.Call) error {
	f.mu.Lock()
	latency := time.Duration(f.set.LatencyMS) * time.Millisecond
	err := f.decide(c)
	f.mu.Unlock()
	if latency > 0 && sleep.For(ctx, latency) != nil {
		return ctx.Err()
	}
	return err
}

// decide returns the fault for the call, or nil. Callers hold the lock.
func (f *faults) decide(c *awsapi.Call) error {
	name := c.Name()
	for pattern, n := range f.set.Throttle {
		if awsapi.Match(pattern, name) && n != 0 {
			f.set.Throttle[pattern] = max(n-1, -1)
			return c.Service.Protocol.Throttled()
		}
	}
	for pattern, rate := range f.set.Rate {
		if awsapi.Match(pattern, name) && !f.take(pattern, rate) {
			return c.Service.Protocol.Throttled()
		}
	}
	for pattern, e := range f.set.Errors {
		if !awsapi.Match(pattern, name) {
			continue
		}
		if e.Count == 1 {
			delete(f.set.Errors, pattern)
		} else if e.Count > 1 {
			e.Count--
			f.set.Errors[pattern] = e
		}
		return &awsapi.Error{Code: e.Code, Message: e.Message, Status: e.Status}
	}
	c.Identity.Deny = append(slices.Clip(c.Identity.Deny), f.set.Deny...)
	return nil
}

func (f *faults) take(pattern string, rate float64) bool {
	now := f.now()
	b := f.buckets[pattern]
	if b == nil {
		b = &bucket{tokens: max(rate, 1), last: now}
		f.buckets[pattern] = b
	}
	b.tokens = min(max(rate, 1), b.tokens+now.Sub(b.last).Seconds()*rate)
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// count uses up one of a counted fault, and reports whether one was left.
func (f *faults) count(n *int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if *n == 0 {
		return false
	}
	*n = max(*n-1, -1)
	return true
}

func (f *faults) resumeForbidden() bool { return f.count(&f.set.ResumeDenied) }

func (f *faults) notConnected() bool {
	f.mu.Lock()
	until := f.since.Add(time.Duration(f.set.NotConnectedMS) * time.Millisecond)
	f.mu.Unlock()
	return f.now().Before(until) || f.count(&f.set.NotConnected)
}

// nodesHidden reports whether nodes are never connected.
func (f *faults) nodesHidden() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set.NodeNotConnected
}

// container returns how many sessions a container may have, 0 for unlimited, and whether further ones start silently.
func (f *faults) container() (most int, silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set.SessionsPerContainer, f.set.SessionsOver == OverSilent
}

// document returns what happens to a session with the document on an ECS target.
func (f *faults) document(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set.Documents[name]
}

// taskFailure returns why the next task must not start, or "".
func (f *faults) taskFailure() string {
	if !f.count(&f.set.TaskFailures) {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return cmp.Or(f.set.TaskReason, defaultTaskReason)
}

// execAgent reports whether the exec agent of a new task starts, and whether it answers.
func (f *faults) execAgent() (starts, answers bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.set.NoExecAgent, !f.set.NoExecAgent && !f.set.ExecSilent
}

func (a APIFaults) validate() error {
	for pattern, rate := range a.Rate {
		if rate <= 0 {
			return fmt.Errorf("rate of %s must be above 0", pattern)
		}
	}
	for pattern, e := range a.Errors {
		if e.Code == "" || (e.Status != 0 && (e.Status < 400 || e.Status > 599)) {
			return fmt.Errorf("the error for %s needs a code, and a status from 400 to 599", pattern)
		}
	}
	if a.SessionsPerContainer < 0 {
		return errors.New("sessions_per_container is negative")
	}
	if a.SessionsOver != "" && a.SessionsOver != OverSilent {
		return fmt.Errorf("sessions_over is %q, want nothing or %s", a.SessionsOver, OverSilent)
	}
	for document, how := range a.Documents {
		if how != OverSilent && how != RefuseDenied && how != RefuseInvalid {
			return fmt.Errorf("document %s: %q is none of %s, %s, %s", document, how, RefuseDenied, RefuseInvalid, OverSilent)
		}
	}
	if a.LatencyMS < 0 || a.NotConnectedMS < 0 {
		return errors.New("a time is negative")
	}
	return nil
}
