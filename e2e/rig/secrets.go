//go:build linux

package rig

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Secrets are the values that no place may contain, by their names.
type Secrets map[string][][]byte

// Add adds a secret in the forms in which a program might write it.
func (s Secrets) Add(name string, secret []byte) {
	forms := [][]byte{secret}
	for _, text := range []string{
		url.QueryEscape(string(secret)), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
		fmt.Sprintf("%d", secret), // as Go prints bytes
	} {
		forms = append(forms, []byte(text))
	}
	// Base64 looks different with each place in a longer text: only what no neighbour has a part in is looked for.
	for before := range 3 {
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(append(make([]byte, before), secret...))
			if len(text) > 8 {
				forms = append(forms, []byte(text[4*((before+2)/3):len(text)-3]))
			}
		}
	}
	s[name] = append(s[name], forms...)
}

// In returns the names of the secrets that are in data.
func (s Secrets) In(data []byte) (found []string) {
	for name, forms := range s {
		if slices.ContainsFunc(forms, func(form []byte) bool { return bytes.Contains(data, form) }) {
			found = append(found, name)
		}
	}
	return found
}

// InFiles returns what In finds in the files below dir and in their names, by their paths.
func (s Secrets) InFiles(dir string) (found map[string][]string, files int, err error) {
	found = make(map[string][]string)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if names := s.In([]byte(path)); len(names) > 0 {
			found[path] = names
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		if names := s.In(data); len(names) > 0 {
			found[path] = append(found[path], names...)
		}
		return nil
	})
	return found, files, err
}

// Process is what all who may look see of a process.
type Process struct {
	PID           int
	Args, Environ string // with zero bytes
}

// Processes returns the processes that ok takes.
func Processes(ok func(Process) bool) ([]Process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return nil, err
		}
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		environ, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue
		}
		if p := (Process{pid, string(args), string(environ)}); ok(p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// Memory calls look with each part of a process's memory that it can write to. Only root can.
func Memory(pid int, look func([]byte)) error {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer mem.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		part := make([]byte, to-from)
		n, _ := mem.ReadAt(part, from) // it may end early, where there is nothing
		look(part[:n])
	}
	return lines.Err()
}

// texts are different texts, in the order in which they were found.
type texts struct {
	known map[string]bool
	all   [][]byte
}

func (t *texts) add(text []byte) {
	if t.known == nil {
		t.known = make(map[string]bool)
	}
	if !t.known[string(text)] {
		t.known[string(text)] = true
		t.all = append(t.all, bytes.Clone(text))
	}
}

// places yields where part has text.
func places(part, text []byte) iter.Seq[int] {
	return func(yield func(int) bool) {
		for at := 0; ; at++ {
			next := bytes.Index(part[at:], text)
			if next < 0 {
				return
			}
			if at += next; !yield(at) {
				return
			}
		}
	}
}

// InMemory finds in a process's memory what a pattern's first group is.
func InMemory(pid int, pattern *regexp.Regexp) (found [][]byte, err error) {
	var t texts
	err = Memory(pid, func(part []byte) {
		for _, match := range pattern.FindAllSubmatch(part, -1) {
			t.add(match[1])
		}
	})
	return t.all, err
}

// PrivateKeys finds in a process's memory the seeds of the Ed25519 keys that it has.
func PrivateKeys(pid int) (seeds [][]byte, err error) {
	// A key in memory is its seed and its public half, one after the other, on the heap: where the two fit is one.
	head := []byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20") // of the public half, as SSH writes it
	var publics, found texts
	if err := Memory(pid, func(part []byte) {
		for at := range places(part, head) {
			if from := at + len(head); from+ed25519.PublicKeySize <= len(part) {
				publics.add(part[from : from+ed25519.PublicKeySize])
			}
		}
	}); err != nil {
		return nil, err
	}
	err = Memory(pid, func(part []byte) {
		for _, public := range publics.all {
			for at := range places(part, public) {
				if at < ed25519.SeedSize {
					continue
				}
				seed := part[at-ed25519.SeedSize : at]
				if key := ed25519.NewKeyFromSeed(seed); bytes.Equal(key[ed25519.SeedSize:], public) {
					found.add(seed)
				}
			}
		}
	})
	return found.all, err
}

// After finds in a process's memory what follows an occurrence of marker, n bytes each, within so many bytes of it, where words
// begin. It leaves out values that are not random bytes, such as texts, and parts of public values.
func After(pid int, marker []byte, within, n int, public ...[]byte) (found [][]byte, err error) {
	var t texts
	random := func(b []byte) bool {
		isKnown := func(text []byte) bool { return bytes.Contains(text, b) }
		isBinary := func(r rune) bool { return r < ' ' || r > '~' }
		return distinct(b) >= n*3/4 && bytes.ContainsFunc(b, isBinary) && !slices.ContainsFunc(public, isKnown)
	}
	err = Memory(pid, func(part []byte) {
		for at := range places(part, marker) {
			for from := at; from < at+within && from+n <= len(part); from += 8 {
				if text := part[from : from+n]; random(text) {
					t.add(text)
				}
			}
		}
	})
	return t.all, err
}

// distinct is how many values the bytes have.
func distinct(b []byte) int {
	seen := make(map[byte]bool)
	for _, x := range b {
		seen[x] = true
	}
	return len(seen)
}
