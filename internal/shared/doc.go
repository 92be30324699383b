// Package shared has the configuration that a team keeps in an SSM parameter of its account, so that a new colleague needs no file. It
// reads and writes the parameter, and keeps a copy in the state directory: most commands ask AWS nothing.
package shared
