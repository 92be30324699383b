// Package iam decides, as AWS Identity and Access Management documents it, whether identity-based policies allow a request: an action on
// a resource in a context of condition keys. It knows no API and no account.
//
// What it does not know, it refuses when it reads a policy: no policy means one thing here and another on AWS.
package iam
