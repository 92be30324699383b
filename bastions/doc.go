// Package bastions finds, starts, waits for and stops the tasks that bastiond runs in.
//
// A bastion belongs to one AWS identity. Its task carries startedBy, a hash of the identity's ARN, by which ECS lists it, and the
// tag bastion:owner with the identity's user id, which IAM can compare with aws:userid. The starter of a task chooses both. So
// [Manager] also compares a task that has the marks with the task that it would start itself: docs/adr/0010-whose-bastion.md.
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
