// Package doctor examines everything between a user's machine and a target behind the bastion. For each part it says whether the part
// works, what a fault means, and what mends it. `bastion doctor` shows its report.
//
// It has three parts. Gatherers collect [Facts] from this machine, the network, AWS, and a running bastion. Each has its own time limit,
// and those that do not depend on each other run at once. The checks of [Checks] judge the facts: pure functions, in the order of the
// path. A check names the checks that must hold before it makes sense. Without them it is skipped, so that one cause gives one finding.
// [Report] has the findings, and how it is shown, shared and mended.
//
// The doctor only reads. It starts no task. If a bastion runs already, it opens a session to it, as a forward does. Where AWS or the
// system hides something, the finding is [Skipped] and says so.
package doctor
