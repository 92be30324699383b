//go:build !linux

package awssdk

// privateCopy makes the copy of sections for the SDK.
var privateCopy = temporaryCopy
