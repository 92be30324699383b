package server

import "runtime/debug"

// A task's memory besides bastiond's. The SSM agent has a process for each session. The figures are measured, and rounded up.
const (
	agentMemory   = 30 * mib // the agent itself
	programMemory = 14 * mib // the program of the sessions' processes, which they share
	sessionMemory = 10 * mib // each of these processes
	execMemory    = 24 * mib // two runs of ECS Exec at the same time, with their loggers

	leastOwn   = 48 * mib // least memory of bastiond
	ownReserve = 96 * mib // bastiond's share when the server computes the sessions
	unheaped   = 16 * mib // bastiond's memory outside the Go heap

	// spareSessions are kept for later users when others use up the rest.
	spareSessions = 4
)

// memoryLimit returns the limit of bastiond's heap in a task with that much memory and that many sessions.
func memoryLimit(task int64, sessions int) int64 {
	return max(task-agentMemory-programMemory-execMemory-unheaped-int64(sessions)*sessionMemory, leastOwn)
}

// maxSessions returns how many sessions fit into a task's memory.
func maxSessions(task int64) int {
	own := min(ownReserve, task/8+leastOwn/2)
	return max(int((task-agentMemory-programMemory-execMemory-own)/sessionMemory), spareSessions+1)
}

// adjustMemory sets the heap's limit by the present sessions, because the agent has a process for each.
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

// sessions returns how many SSM sessions lead to bastiond.
func (s *Server) sessions() int {
	s.mu.Lock()
	n := s.plain
	s.mu.Unlock()
	if b := s.bond.Load(); b != nil {
		n += b.Streams()
	}
	return n
}

// taskHealth returns the answer to RequestHealth.
func (s *Server) taskHealth() TaskHealth {
	h := s.resources.health()
	h.Sessions = s.sessions()
	if s.taskMemory > 0 {
		h.MaxSessions = maxSessions(s.taskMemory)
	}
	return h
}
