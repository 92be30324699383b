package awssdk

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// privateCopy makes the copy of sections for the SDK.
var privateCopy = memoryCopy

// memoryCopy gives text a path that this process alone can open, until the caller calls remove. The text stays in memory, and is gone
// with the process however that ends. Without /proc it is a temporaryCopy.
func memoryCopy(text string) (path string, remove func(), err error) {
	const name = "bastion-aws-config"
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil { // Linux before 3.17
		return temporaryCopy(text)
	}
	f := os.NewFile(uintptr(fd), name)
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	if _, err = f.WriteString(text); err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		_ = f.Close()
		return temporaryCopy(text)
	}
	return path, func() { _ = f.Close() }, nil
}
