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
		leaveOut(t, err.Error())
	}
	return path
}

// NeedRoot does the same for the rights that namespaces and chroot take.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		leaveOut(t, "namespaces and chroot need root")
	}
}

func leaveOut(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
