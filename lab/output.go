package lab

import (
	"errors"
	"io/fs"
	"os"
	"sync"
)

// maxOutput bounds the kept output of a task, in bytes for each of its two streams.
const maxOutput = 8 << 20

// outputFile keeps the beginning of a stream in a file. A write never fails, so that the writing program notices nothing.
type outputFile struct {
	path string

	mu   sync.Mutex
	file *os.File // nil once closed
	left int
}

func newOutputFile(path string) (*outputFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &outputFile{path: path, file: f, left: maxOutput}, nil
}

func (o *outputFile) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil || o.left == 0 {
		return len(p), nil
	}
	n, err := o.file.Write(p[:min(len(p), o.left)])
	o.left -= n
	if err != nil {
		o.left = 0
	}
	return len(p), nil
}

// close may be called on nil, and several times.
func (o *outputFile) close() {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		_ = o.file.Close() // only a part of a log is lost
		o.file = nil
	}
}

// read returns the kept output so far.
func (o *outputFile) read() ([]byte, error) {
	if o == nil {
		return nil, nil
	}
	b, err := os.ReadFile(o.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}
