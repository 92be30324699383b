package bond

import (
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

const (
	maxOpening = 2 // running attempts at most, with a path

	// Backoff with a path; it doubles with every failure in succession.
	failureFirst, failureMost     = 500 * time.Millisecond, time.Minute
	throttledFirst, throttledMost = time.Second, 30 * time.Second

	// Without a path, an attempt begins at least every attemptEvery, whatever the result of earlier ones. So the connection goes on
	// within that time once a path is possible. After attempts that fail at once, the next follows after attemptFirst. After
	// throttled attempts, and beside others that hang, it follows after about attemptEvery. Only refusals, which a person has to
	// lift, lead to longer pauses.
	attemptFirst, attemptEvery = 200 * time.Millisecond, 2 * time.Second
	refusedFirst, refusedMost  = 500 * time.Millisecond, 10 * time.Second
	// maxAttempts bounds the attempts that run without a path. The first patientAttempts may take all the time of an open, for slow
	// networks. Of the others, the oldest makes room for the next.
	maxAttempts, patientAttempts = 8, 4

	lentPause = 2 * time.Second // between attempts at a lent place that may not be free yet
)

// Failure says how an attempt to open a subflow failed, and so when the next one makes sense.
type Failure uint8

// The failures that DialConfig.Judge tells apart.
const (
	FailedOther      Failure = iota
	FailedThrottled          // AWS throttles the calls
	FailedLimit              // the service starts no more sessions to this far end
	FailedUnanswered         // the service started a session that no agent answered; beside live sessions this, too, shows a limit
	FailedRefused            // the service refuses until a person changes something
	FailedFatal              // no attempt can succeed until Rotate or Probe is called

	failedFull // the far end takes no more subflows
)

// pacing decides when the next attempt to open a subflow begins, and how many run at a time. After each look:
//
//   - attempts are in the order of their beginning: at most maxAttempts, or maxOpening with a path;
//   - with a path, each attempt took a token that was there, and backoff is at most failureMost;
//   - without a path, the next attempt begins within attemptEvery, or refusedMost after a refusal;
//   - no attempt begins while hopeless.
type pacing struct {
	random func(time.Duration) time.Duration

	latest      attemptID
	opening     []opening     // running attempts, the oldest first
	burst, long bucket        // tokens for attempts: three a second, and one a second in the long run
	notBefore   time.Time     // end of the backoff
	spaced      time.Duration // without a path, from the latest attempt to the next
	failures    int           // in succession
	throttles   int           // in succession
	hopeless    bool          // no attempt can succeed
	pathless    bool          // at the last look
}

// attemptID numbers the attempts to open a subflow, from 1 on. Two may begin at the same time.
type attemptID uint64

// opening is a running attempt.
type opening struct {
	id     attemptID
	begun  time.Time
	beside int // the most subflows at any time since it began
}

func newPacing(now time.Time) pacing {
	return pacing{burst: newBucket(now, 4, 3), long: newBucket(now, maxSubflows, 1)}
}

// observe takes in how many subflows there are.
func (p *pacing) observe(n *census) {
	for i := range p.opening {
		p.opening[i].beside = max(p.opening[i].beside, n.staying)
	}
}

// setPathless resets the backoff when the last path goes: failures beside a path say nothing about the first attempt without one.
func (p *pacing) setPathless(pathless bool) {
	if pathless && !p.pathless {
		p.failures, p.notBefore = 0, time.Time{}
	}
	p.pathless = pathless
}

// open begins attempts for the missing subflows while there is a path. Running attempts count.
func (p *pacing) open(now time.Time, missing int, out *plan) {
	p.keep(maxOpening, 0, out) // more may remain from the time without a path
	for missing -= len(p.opening); missing > 0 && len(p.opening) < maxOpening; missing-- {
		if at := p.opensAt(now); now.Before(at) {
			out.wake(at)
			return
		}
		p.begin(now, out)
	}
}

// attempt begins one attempt when the last path has gone, then one after the other, whatever their results. It reports whether it
// began one now.
func (p *pacing) attempt(now, notBefore time.Time, out *plan) bool {
	at := later(p.notBefore, notBefore)
	if k := len(p.opening); k > 0 {
		at = later(at, p.opening[k-1].begun.Add(p.spaced))
	}
	if now.Before(at) {
		out.wake(at)
		return false
	}
	p.keep(maxAttempts-1, patientAttempts, out)
	p.begin(now, out)
	out.wake(now.Add(p.spaced))
	return true
}

// keep gives up all but some attempts. It gives up the oldest, but never the first spared ones.
func (p *pacing) keep(some, spared int, out *plan) {
	if k := min(len(p.opening)-some, len(p.opening)-spared); k > 0 {
		for _, o := range p.opening[spared : spared+k] {
			out.abandon = append(out.abandon, o.id)
		}
		p.opening = slices.Delete(p.opening, spared, spared+k)
	}
}

func (p *pacing) begin(now time.Time, out *plan) {
	p.takeTokens(now)
	p.latest++
	p.opening = append(p.opening, opening{id: p.latest, begun: now})
	p.spaced = attemptEvery*3/4 + p.random(attemptEvery/4+1)
	out.open = append(out.open, p.latest)
}

func (p *pacing) takeTokens(now time.Time) {
	p.burst.take(now)
	p.long.take(now)
}

// opensAt returns when the next attempt may begin, with a path.
func (p *pacing) opensAt(now time.Time) time.Time {
	return later(p.notBefore, later(p.burst.readyAt(now), p.long.readyAt(now)))
}

func (p *pacing) mayOpen(now time.Time) bool { return !p.hopeless && !now.Before(p.opensAt(now)) }

// ended forgets an attempt and returns it.
func (p *pacing) ended(id attemptID) (o opening) {
	if i := slices.IndexFunc(p.opening, func(o opening) bool { return o.id == id }); i >= 0 {
		o = p.opening[i]
		p.opening = slices.Delete(p.opening, i, i+1)
	}
	return o
}

// opened resets the backoff after an attempt has succeeded.
func (p *pacing) opened(id attemptID) {
	p.ended(id)
	p.failures, p.throttles, p.notBefore = 0, 0, time.Time{}
}

// failed sets the backoff after an attempt has failed. With a path, a limit does not delay the next attempt: places bounds it.
func (p *pacing) failed(now time.Time, attempt opening, how Failure) {
	var pause time.Duration
	switch {
	case how == FailedFatal:
		p.hopeless = true
		return
	case p.pathless:
		p.failedPathless(now, attempt.begun, how)
		return
	case how == FailedThrottled:
		pause = backoff.After(p.throttles, throttledFirst, throttledMost)
	case how == FailedRefused, how == FailedOther:
		pause = backoff.After(p.failures, failureFirst, failureMost)
	default:
		return
	}
	if now.Before(p.notBefore) && (how != FailedThrottled || p.throttles > 0) {
		return // count two at once as one
	}
	if how == FailedThrottled {
		p.throttles++
	} else {
		p.failures++
	}
	p.notBefore = now.Add(jitter(pause, p.random))
}

// failedPathless is failed without a path.
func (p *pacing) failedPathless(now, begun time.Time, how Failure) {
	latest := begun
	if k := len(p.opening); k > 0 {
		latest = later(latest, p.opening[k-1].begun)
	}
	soon := latest.Add(p.spaced)
	switch how {
	case FailedThrottled:
		p.throttles++
		p.notBefore = later(p.notBefore, soon)
	case FailedRefused:
		p.notBefore = now.Add(jitter(backoff.After(p.failures, refusedFirst, refusedMost), p.random))
		p.failures++
	default:
		at := now.Add(jitter(backoff.After(p.failures, attemptFirst, attemptEvery), p.random))
		p.notBefore = later(p.notBefore, earlier(at, soon))
		p.failures++
	}
}

// waitForReturned delays the next attempt at a lent place.
func (p *pacing) waitForReturned(now time.Time) {
	p.notBefore = later(p.notBefore, now.Add(jitter(lentPause, p.random)))
}

// retry resets all backoff.
func (p *pacing) retry() {
	p.hopeless, p.pathless = false, false
	p.failures, p.throttles, p.notBefore = 0, 0, time.Time{}
}

// jitter spreads a pause, so that the clients of a service that comes back do not all return at once.
func jitter(d time.Duration, random func(time.Duration) time.Duration) time.Duration {
	return backoff.Between(d/2, d, random)
}

// bucket is a token bucket.
type bucket struct {
	cap, tokens float64
	rate        float64 // tokens per second
	at          time.Time
}

func newBucket(now time.Time, full, rate float64) bucket {
	return bucket{cap: full, tokens: full, rate: rate, at: now}
}

func (b *bucket) fill(now time.Time) {
	b.tokens = min(b.cap, b.tokens+b.rate*now.Sub(b.at).Seconds())
	b.at = now
}

// take takes a token, or owes it.
func (b *bucket) take(now time.Time) {
	b.fill(now)
	b.tokens--
}

// readyAt returns when a token will be there.
func (b *bucket) readyAt(now time.Time) time.Time {
	b.fill(now)
	if b.tokens >= 1 {
		return now
	}
	return now.Add(time.Duration((1-b.tokens)/b.rate*float64(time.Second)) + time.Microsecond)
}
