// Package bastions finds, starts, waits for and stops the tasks that bastiond runs in.
//
// A bastion belongs to one AWS identity. Its task has startedBy, a hash of the identity's ARN, by which ECS lists it. It also
// has the tag bastion:owner with the identity's user id, which IAM can compare with aws:userid. A task's starter chooses both.
// So [Manager] also compares a task with these marks with its own: docs/adr/0010-whose-bastion.md.
//
// # One task per identity
//
// Two processes that find no task at the same moment must not start two. First, RunTask's client token follows from the request
// and the clock's ten-minute window, so ECS answers both processes with the same task. For a token of a stopped task, ECS
// answers with that task. The next token then follows from the owner's last ended task in ECS's list, which every process sees.
// So two calls are enough. Second, if the tokens differ (other settings, the edge of a window), each process lists again after
// its RunTask. The order of [Manager.Find] picks one task. A process stops its own new task if another was picked.
//
// The package does not know SSM. A RUNNING exec agent may not be connected yet; the caller retries TargetNotConnected. If that
// never ends, [Manager.Diagnose] looks for the reason.
package bastions
