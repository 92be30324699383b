package lab

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The main thread is as likely as any other that is idle.
func TestOnOwnThreadIsNotTheMainThread(t *testing.T) {
	for range 500 {
		tid := make(chan int, 1)
		onOwnThread(func() { tid <- unix.Gettid() })
		if got := <-tid; got == unix.Getpid() {
			t.Fatal("it is the main thread")
		}
	}
}
