// Package admin has the commands of those who look after an account: init, plan, upgrade and destroy for its stack, iam-policy for
// its permissions, and audit, gc and cost for everybody's bastions. It is a part of the command line apart, because few people type these
// commands, and most of the program does not know an account's infrastructure.
//
// What they do is in the packages below account. The package has their options, and what they print.
package admin
