// Package recorded keeps lists of the AWS calls that the tests' runs make, one list for each role: for the people, the tasks and whoever
// deploys. A call stands there as the action that IAM asks for. The run that makes the calls compares them with the list in
// account/testdata/calls, or rewrites it. A test of package account compares the policies with the lists.
package recorded
