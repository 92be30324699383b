// Package bastions finds, starts, waits for and stops the tasks that bastiond runs in.
//
// A bastion belongs to one AWS identity. Its task carries StartedBy, a hash of the identity's ARN, by which ECS can
// list it, and the tag bastion:owner with the ARN itself, which is compared before a task is used: neither a collision
// of hashes nor somebody else's task is ever taken for one's own. (Whoever may call ecs:RunTask and ecs:TagResource in
// the cluster can forge both; the pushed grant is what protects the tunnel.)
//
// # One task per identity
//
// Two processes that find no task at the same moment must not start two. First, the client token of RunTask follows
// from the request and the clock's ten-minute window, so that ECS answers both with the same task. ECS answers a token whose
// task has stopped with that task. The next token then follows from the owner's last ended task, which every process finds
// in ECS's list, so that two calls are enough whatever ran before. Second, where the tokens
// differ (other settings, the edge of a window), each process lists again after its RunTask; the order of
// [Manager.Find] picks one task, and a process stops the task that it has just started if another was picked.
//
// The package knows no SSM: that the exec agent is RUNNING does not yet mean that it is connected, and
// TargetNotConnected is for the caller to retry. When that never ends, [Manager.Diagnose] looks for the reason.
package bastions
