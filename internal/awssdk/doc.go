// Package awssdk configures the AWS SDK for a user, with the variables and profiles that every AWS tool reads. They come from
// this process, or from the command for which the agent acts (Env). The package knows each variable that the SDK reads from its
// own process, and how the agent treats it.
//
// It also adds features that the SDK lacks: a time limit for every call, endpoints for calls that fetch credentials, and AWS's
// clock. It detects answers that are not AWS's. Its errors name the profile, variable or file to change.
package awssdk
