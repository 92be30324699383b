// Package awssdk sets the AWS SDK up for a user: by the variables and profiles that every AWS tool reads, in this process or of the
// command for which the agent acts (Env). It knows each variable that the SDK reads from its own process, and what becomes of it there.
//
// What the SDK leaves out is here too: a bound for every call, endpoints for the calls for credentials, answers that are none of AWS's,
// AWS's clock, and errors that name the profile, variable or file to change.
package awssdk
