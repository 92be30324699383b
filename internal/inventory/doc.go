// Package inventory finds the targets there are: the configuration's names, and what AWS has in each environment, asked now or kept. From it
// come ls targets, the list to pick from where a command lacks a target, and completion. A kept list's form is in internal/targetlist.
package inventory
