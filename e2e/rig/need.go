package rig

import (
	"os"
	"testing"
)

// Need returns the path of a program that the test needs, as Find does. Without it the test is skipped on a laptop, and fails
// where CI is set: there nothing is left out.
func Need(t testing.TB, name string) string {
	t.Helper()
	path, err := Find(name)
	if err != nil {
		LeaveOut(t, err.Error())
	}
	return path
}

// NeedRoot does the same for the rights that namespaces and chroot take.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		LeaveOut(t, "namespaces and chroot need root")
	}
}

// LeaveOut skips a test whose machine lacks something, and says why. Where CI is set it fails it.
func LeaveOut(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
