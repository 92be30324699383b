// Package login signs a user in to IAM Identity Center and writes the token into AWS's shared cache, from which the AWS CLI, the SDKs
// and bastion itself take it. docs/login.md is for users.
//
// There are two ways. With a browser on this machine it is OAuth's authorization code with PKCE (RFC 7636): the browser brings the
// code to a listener on 127.0.0.1 (code.go). Without one it is the device code (RFC 8628): the user types a code into a page on
// any machine (device.go). Ensure chooses, and does nothing while the token is good or can be renewed without the user.
//
// # The cache
//
// ~/.aws/sso/cache belongs to every AWS tool. A token's file has the SHA-1 of the session's name, or of a legacy profile's start
// URL, for its name. Unknown fields in it stay. The client's registration is cached beside it, until it expires. Files have mode
// 0600 and are replaced, never changed.
//
// # MFA
//
// CodeBy makes a program the source of MFA codes (the setting mfa_command), for commands and for the agent.
package login
