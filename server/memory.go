package server

import "runtime/debug"

// What a task's memory goes to, besides bastiond. The SSM agent has a process for each session; the figures are those that its
// processes were seen to have, rounded up.
const (
	agentMemory   = 30 * mib // the agent itself
	programMemory = 14 * mib // the program of the sessions' processes, which they share
	sessionMemory = 10 * mib // of each of these processes
	execMemory    = 24 * mib // two runs of ECS Exec at the same time, with their loggers

	leastOwn   = 48 * mib // bastiond gets so much at least
	ownReserve = 96 * mib // and is left so much where sessions are counted
	unheaped   = 16 * mib // of bastiond's memory that is not the Go heap's

	// spareSessions are kept for people who come later, when others use all that there is room for.
	spareSessions = 4
)

// memoryLimit is what bastiond's heap may grow to in a task with so much memory and so many sessions.
func memoryLimit(task int64, sessions int) int64 {
	return max(task-agentMemory-programMemory-execMemory-unheaped-int64(sessions)*sessionMemory, leastOwn)
}

// maxSessions is how many sessions a task's memory has room for.
func maxSessions(task int64) int {
	own := min(ownReserve, task/8+leastOwn/2)
	return max(int((task-agentMemory-programMemory-execMemory-own)/sessionMemory), spareSessions+1)
}

// adjustMemory sets the limit of the heap by the sessions that there are, because each of them has a process of the agent.
func (s *Server) adjustMemory() {
	if s.taskMemory == 0 || s.config.KeepMemoryLimit {
		return
	}
	s.memory.Lock()
	defer s.memory.Unlock()
	if limit := memoryLimit(s.taskMemory, s.sessions()); limit != s.heapLimit {
		s.heapLimit = limit
		debug.SetMemoryLimit(limit)
	}
}

// sessions is how many SSM sessions lead to bastiond.
func (s *Server) sessions() int {
	n := s.direct()
	if b := s.bond.Load(); b != nil {
		n += b.Streams()
	}
	return n
}

// direct is how many connections the SSH port has, each of which is a session.
func (s *Server) direct() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plain
}

// taskHealth is the answer to RequestHealth.
func (s *Server) taskHealth() TaskHealth {
	h := s.resources.health()
	h.Sessions = s.sessions()
	if s.taskMemory > 0 {
		h.MaxSessions = maxSessions(s.taskMemory)
	}
	return h
}
