//go:build !linux && !darwin && !windows

package process

// watch returns a watcher of a process, or os.ErrProcessDone.
func watch(pid int) (watcher, error) { return poll(pid) }
