package lab

import "cmp"

// What follows breaks a set-up as people do, for those who look for faults.

// TaskAlteration is what AWS shows of a task from now on. Zero fields change nothing.
type TaskAlteration struct {
	ExecAgent, ExecReason string // status of the exec agent; "STOPPED" takes it away
	Platform              string // version of Fargate's
	NoExec                bool   // it was started without ECS Exec
}

// AlterTask changes a task.
func (l *Lab) AlterTask(id string, a TaskAlteration) error {
	t, err := l.task(id)
	if err != nil {
		return err
	}
	l.ecs.update(t, func() {
		t.agent, t.agentReason = cmp.Or(a.ExecAgent, t.agent), cmp.Or(a.ExecReason, t.agentReason)
		t.platform = cmp.Or(a.Platform, t.platform)
		t.connected = t.connected && (a.ExecAgent == "" || a.ExecAgent == statusRunning)
		t.exec = t.exec && !a.NoExec
	})
	return nil
}

// SetClusterStatus sets a cluster's status, such as INACTIVE.
func (l *Lab) SetClusterStatus(name, status string) {
	l.ecs.mu.Lock()
	defer l.ecs.mu.Unlock()
	if c := l.ecs.clusters[name]; c != nil {
		c.status = status
	}
}

// DeleteRole makes a role unknown to IAM's simulator. name is the end of its ARN.
func (l *Lab) DeleteRole(name string) {
	l.ecs.mu.Lock()
	defer l.ecs.mu.Unlock()
	l.ecs.noRoles[name] = true
}

// DisableKey disables the KMS key.
func (l *Lab) DisableKey() { l.kms.disabled.Store(true) }
