// Package review answers the questions of an access review from bastiond's audit log in CloudWatch Logs: who reached what, when, and how
// much went each way. Each answer is as true as the log: a grant says who its user is, and CloudTrail proves it (docs/threat-model.md).
package review
