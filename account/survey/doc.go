// Package survey finds out what stands in a region of an AWS account, and derives from it the inputs of a stack for bastions.
//
// [Look] asks AWS: VPCs with their subnets, routes and endpoints, databases and caches, and the security groups of both. It only reads.
// A kind of thing that AWS does not show becomes a [Finding], and the survey goes on.
//
// [Choose] is a pure function of a [Landscape] and the operator's [Answers]. It leaves two questions at most, each with a default, and
// gives a reason for everything that it decided itself.
package survey
