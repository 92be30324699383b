package gateway

import (
	"sync"
	"time"
)

// Costs of the real agent's work: processor time of the process that it has for each session, and memory. With these figures
// sessions are as fast as the measured ones in tasks of 0.25, 0.5 and 1 vCPU; docs/performance.md compares both.
const (
	costStart   = 30 * time.Millisecond  // a process and its TLS connection
	costOutput  = 190 * time.Microsecond // a message to the client: read, hash, encrypt, write
	costMux     = 330 * time.Microsecond // more of it, if smux is in the stream: a unix socket and five goroutines on the way
	costAcked   = 20 * time.Microsecond  // the client's acknowledgement of it
	costInput   = 170 * time.Microsecond // a message from the client, and the acknowledgement that it gets
	costPerKB   = 4 * time.Microsecond   // of its payload beyond the first kilobyte
	costControl = 50 * time.Microsecond  // any other message

	agentMemory   = 25 << 20 // the agent itself
	sharedMemory  = 14 << 20 // of all sessions together: the program
	sessionMemory = 10 << 20 // of each session's process

	cpuPeriod = 100 * time.Millisecond // of the kernel's quota
	// cpuSlack is how far a process may run ahead of its processor time before it waits: timers are no finer.
	cpuSlack = time.Millisecond
)

// Machine is the machine of the agents, a task with a share of a processor. In each period all processes together may use quota of
// processor time; the rest waits for the next period. It is a model, because a real quota needs privileges or cgroups. Spend adds
// the processor time of real programs in the task. A nil *Machine costs nothing.
type Machine struct {
	quota time.Duration // in each period
	begin time.Time

	mu       sync.Mutex
	period   int64         // the present one, since begin
	used     time.Duration // of its quota
	total    time.Duration // processor time so far
	noted    int64         // periods before this one are in the figures
	busy     int64         // periods in which anything ran
	short    int64         // periods in which a process had to wait
	waited   time.Duration // of those, the rest of the period after the quota was used up
	sessions int
}

// NewMachine returns a machine with that many processors, which may be a fraction.
func NewMachine(processors float64) *Machine {
	quota := max(time.Duration(processors*float64(cpuPeriod)), time.Millisecond)
	return &Machine{quota: quota, begin: time.Now(), period: -1, noted: -1}
}

// MachineUsage is the used time and memory of a machine.
type MachineUsage struct {
	CPU       time.Duration // processor time
	Periods   int64         // of 100 ms, in which anything ran
	Throttled int64         // of these, those in which a process waited for the next
	Waited    time.Duration // in all of these together
	Sessions  int           // live ones
	Memory    int64         // bytes, of the agent's processes
}

// Usage returns the usage so far.
func (m *Machine) Usage() MachineUsage {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := MachineUsage{
		CPU: m.total, Periods: m.busy, Throttled: m.short, Waited: m.waited, Sessions: m.sessions, Memory: agentMemory,
	}
	if m.sessions > 0 {
		u.Memory += sharedMemory + int64(m.sessions)*sessionMemory
	}
	return u
}

// Spend adds processor time that a real program in the task has used.
func (m *Machine) Spend(d time.Duration) { m.take(time.Now(), d) }

// take uses d of processor time from start on, and returns when that time is used up.
func (m *Machine) take(start time.Time, d time.Duration) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total += d
	if p := int64(start.Sub(m.begin) / cpuPeriod); p > m.period {
		m.period, m.used = p, 0
	}
	if t := m.periodBegin(); start.Before(t) {
		start = t
	}
	m.note()
	for m.used+d > m.quota {
		d -= max(0, m.quota-m.used)
		m.short++
		m.waited += max(0, cpuPeriod-m.quota)
		m.period, m.used = m.period+1, 0
		start = m.periodBegin()
		m.note()
	}
	m.used += d
	return start.Add(d)
}

// note counts the current period once. Callers hold m.mu.
func (m *Machine) note() {
	if m.period > m.noted {
		m.noted = m.period
		m.busy++
	}
}

func (m *Machine) periodBegin() time.Time { return m.begin.Add(time.Duration(m.period) * cpuPeriod) }

func (m *Machine) enter() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions++
}

func (m *Machine) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions--
}

// process is one thread of a session's process. One goroutine uses it.
type process struct {
	machine *Machine
	free    time.Time     // when it will have finished its present work
	owed    time.Duration // pauses that beside has not returned yet
}

// run makes the process work for d, and returns how long to wait until that is done. It saves up waits below a timer's resolution
// for the next call.
func (p *process) run(d time.Duration) time.Duration {
	if p.machine == nil || d == 0 {
		return 0
	}
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.machine.take(p.free, d)
	return p.free.Sub(now)
}

// beside makes the process work for d beside a pause, and returns how much longer the pause is. That is whole milliseconds, and the
// rest counts for the next call: a timer of 1.2 ms takes 2 ms in an idle program, one of 1 ms takes 1.1.
func (p *process) beside(d time.Duration) time.Duration {
	p.owed += p.run(d)
	whole := p.owed.Truncate(time.Millisecond)
	p.owed -= whole
	return whole
}

// work makes the process work for d. It returns false if done ended the wait.
func (p *process) work(done <-chan struct{}, d time.Duration) bool {
	if wait := p.run(d); wait > cpuSlack {
		return sleep(done, wait)
	}
	return true
}

// inputCost returns the cost of a message of n payload bytes from the client.
func inputCost(n int) time.Duration {
	return costInput + costPerKB*time.Duration(max(0, n-1024)/1024)
}
