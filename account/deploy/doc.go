// Package deploy takes a stack of package account to an AWS account by CloudFormation, and away again: one stack per region and name.
//
// A Deployer looks at the stack (Look), brings it to a state in which it can be changed (Settle), shows what would change (Preview, by a
// change set), and makes that so (Apply). CloudFormation works on by itself once it has begun, so each of these may be interrupted and
// called again: it finds what is under way and follows it. What was chosen stands in the deployed template (account.Record).
package deploy
