package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// engineCapabilities are those that a container engine leaves to a container, and so ECS, by ECS's names.
// Source: Docker's documentation, "Runtime privilege and Linux capabilities", which ECS's of KernelCapabilities names.
var engineCapabilities = map[string]uintptr{
	"AUDIT_WRITE": unix.CAP_AUDIT_WRITE, "CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "FOWNER": unix.CAP_FOWNER,
	"FSETID": unix.CAP_FSETID, "KILL": unix.CAP_KILL, "MKNOD": unix.CAP_MKNOD, "NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
	"NET_RAW": unix.CAP_NET_RAW, "SETFCAP": unix.CAP_SETFCAP, "SETGID": unix.CAP_SETGID, "SETPCAP": unix.CAP_SETPCAP,
	"SETUID": unix.CAP_SETUID, "SYS_CHROOT": unix.CAP_SYS_CHROOT,
}

// limitCapabilities leaves the programs that the calling thread starts from now on an engine's capabilities, without those dropped. The
// thread itself keeps its own, but cannot take this back: it must end with its goroutine.
func limitCapabilities(drop []string) error {
	var keep []uintptr
	if !slices.Contains(drop, "ALL") {
		for name, number := range engineCapabilities {
			if !slices.Contains(drop, name) {
				keep = append(keep, number)
			}
		}
	}
	for number := uintptr(0); ; number++ {
		if slices.Contains(keep, number) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, number, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && number > unix.CAP_AUDIT_WRITE {
			break // beyond the kernel's last
		}
		if err != nil {
			return fmt.Errorf("drop the capability %d (this needs root): %w", number, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("make no capability inheritable: %w", err)
	}
	return nil
}

// InContainer runs f on a thread in a process's namespaces: programs that f starts, on its own goroutine, are in them, and have the
// capabilities that an engine leaves to a container that drops these. The thread's root directory is not the container's.
// The caller must be root.
func InContainer(pid int, drop []string, f func() error) error {
	result := make(chan error, 1)
	onOwnThread(func() {
		err := enterNamespaces(pid)
		if err == nil {
			err = limitCapabilities(drop)
		}
		if err == nil {
			err = f()
		}
		result <- err
	})
	return <-result
}

// enterNamespaces moves the calling thread into a process's namespaces; into that of process ids, what the thread starts.
func enterNamespaces(pid int) error {
	kinds := []struct {
		name string
		flag int
	}{
		{"ipc", unix.CLONE_NEWIPC},
		{"uts", unix.CLONE_NEWUTS},
		{"net", unix.CLONE_NEWNET},
		{"pid", unix.CLONE_NEWPID},
		{"mnt", unix.CLONE_NEWNS}, // last: the others' files are open by then
	}
	var files []*os.File
	defer func() {
		for _, file := range files {
			_ = file.Close()
		}
	}()
	for _, kind := range kinds {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind.name))
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // or the kernel refuses another mount namespace to one thread
		return fmt.Errorf("leave the directories of the other threads: %w", err)
	}
	for i, kind := range kinds {
		if err := unix.Setns(int(files[i].Fd()), kind.flag); err != nil {
			return fmt.Errorf("enter the %s namespace of process %d: %w", kind.name, pid, err)
		}
	}
	return nil
}
