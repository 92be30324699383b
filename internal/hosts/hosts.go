// Package hosts gives names addresses in the machine's hosts file, in blocks that their owner removes again.
//
// A block is between two lines that name its owner:
//
//	# BEGIN bastion 4711-182736-1
//	127.83.12.5 orders.abc123.eu-central-1.rds.amazonaws.com
//	# END bastion 4711-182736-1
//
// Everything outside of blocks stays as it is, byte for byte.
package hosts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// maxSize bounds the hosts files that are read; those of ad blockers have a few megabytes.
const maxSize = 32 << 20

// File is the hosts file that the settings name, or else the system's.
func File(name string) string {
	if name == "" {
		return defaultFile()
	}
	return name
}

// Block is the names that one Add has put into a file. Its owner calls Remove.
type Block struct {
	file, id string // file "": there is nothing to remove
}

// Add puts names into the file, for the owner that id names (see NewID). A name that the file gives the same address already
// is left as it is; without others the file is not written. One that has another address there is an error.
func Add(file, id string, names map[string]netip.Addr) (*Block, error) {
	if err := check(id, names); err != nil {
		return nil, err
	}
	missing, err := lacking(file, names)
	if err != nil || len(missing) == 0 {
		return &Block{}, err
	}
	err = change(file, func(text string) (string, error) {
		missing, err := missingFrom(text, names)
		if err != nil || len(missing) == 0 {
			return text, err
		}
		return appendBlock(text, id, missing), nil
	})
	if err != nil {
		return nil, explain(file, missing, err)
	}
	return &Block{file: file, id: id}, nil
}

// Remove takes the block out of the file again. A block that is gone already is no error.
func (b *Block) Remove() error {
	if b == nil || b.file == "" {
		return nil
	}
	err := change(b.file, func(text string) (string, error) {
		return without(text, func(id string) bool { return id == b.id }), nil
	})
	return explain(b.file, nil, err)
}

// Sweep removes the blocks whose owners are not alive any more. A file without such blocks is only read.
func Sweep(file string, alive func(id string) bool) error {
	text, err := read(file)
	if err != nil {
		return explain(file, nil, err)
	}
	dead := func(id string) bool { return !alive(id) }
	if without(text, dead) == text {
		return nil
	}
	return explain(file, nil, change(file, func(text string) (string, error) { return without(text, dead), nil }))
}

// Addresses returns which address each name has in the file, blocks included.
func Addresses(file string) (map[string]netip.Addr, error) {
	text, err := read(file)
	if err != nil {
		return nil, explain(file, nil, err)
	}
	return parse(text), nil
}

func check(id string, names map[string]netip.Addr) error {
	if id == "" || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("hosts: %q is no id", id)
	}
	for name, addr := range names {
		if !addr.IsLoopback() {
			return fmt.Errorf("hosts: %s is not a loopback address", addr)
		}
		if !isName(name) {
			return fail.New(fail.Usage, "", fmt.Errorf("%q is no name that the hosts file can give an address", name),
				"leave out --hosts for this target")
		}
	}
	return nil
}

// isName accepts host names: what comes from elsewhere must not write lines of its own. An address is none.
func isName(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil || name == "" || len(name) > 253 || strings.EqualFold(name, "localhost") {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	})
}

// lacking returns the names that the file does not have.
func lacking(file string, names map[string]netip.Addr) (map[string]netip.Addr, error) {
	text, err := read(file)
	if err != nil {
		return nil, explain(file, nil, err)
	}
	return missingFrom(text, names)
}

func missingFrom(text string, names map[string]netip.Addr) (map[string]netip.Addr, error) {
	have := parse(text)
	missing := make(map[string]netip.Addr)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		addr, ok := have[strings.ToLower(name)]
		if ok && addr != names[name] {
			return nil, fail.New(fail.Usage, "",
				fmt.Errorf("the hosts file gives %s the address %s already, not %s", name, addr, names[name]),
				"end the other command that forwards it, or remove the line from the hosts file")
		}
		if !ok {
			missing[name] = names[name]
		}
	}
	return missing, nil
}

// parse returns the first address of each name, in lower case, as resolvers take them.
func parse(text string) map[string]netip.Addr {
	out := make(map[string]netip.Addr)
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			name = strings.ToLower(name)
			if _, ok := out[name]; !ok {
				out[name] = addr
			}
		}
	}
	return out
}

const (
	beginMark = "# BEGIN bastion "
	endMark   = "# END bastion "
)

// appendBlock adds a block at the end, with the file's line ends. Where the last line has no end, the block's has none either:
// from that without knows what was there before.
func appendBlock(text, id string, names map[string]netip.Addr) string {
	eol := "\n"
	if strings.Contains(text, "\r\n") || text == "" && defaultCRLF {
		eol = "\r\n"
	}
	lines := []string{beginMark + id}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		lines = append(lines, names[name].String()+" "+name)
	}
	lines = append(lines, endMark+id)
	block := strings.Join(lines, eol)
	if text == "" || strings.HasSuffix(text, "\n") {
		return text + block + eol
	}
	return text + eol + block
}

// without returns text without the blocks whose ids match. A block whose end somebody has removed ends before the first line that
// is not of the form that blocks have.
func without(text string, match func(id string) bool) string {
	var kept []string
	inBlock := ""
	openEnd := false // the last line taken out had no line end
	for line := range strings.Lines(text) {
		bare := strings.TrimRight(line, "\r\n")
		if inBlock != "" {
			if bare == endMark+inBlock {
				inBlock, openEnd = "", line == bare
				continue
			}
			if isEntry(bare) {
				openEnd = line == bare
				continue
			}
			inBlock = ""
		}
		if id, ok := strings.CutPrefix(bare, beginMark); ok && match(strings.TrimSpace(id)) {
			inBlock, openEnd = strings.TrimSpace(id), line == bare
			continue
		}
		kept = append(kept, line)
	}
	out := strings.Join(kept, "")
	if openEnd {
		out = strings.TrimSuffix(strings.TrimSuffix(out, "\n"), "\r")
	}
	return out
}

func isEntry(line string) bool {
	addr, name, ok := strings.Cut(line, " ")
	a, err := netip.ParseAddr(addr)
	return ok && err == nil && a.IsLoopback() && isName(name)
}

func read(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	return readAll(f)
}

func readAll(f *os.File) (string, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("it is larger than %d bytes", maxSize)
	}
	return string(data), err
}

// change rewrites the file under a lock that all who use this package take. The new text replaces the file as a whole;
// where that cannot be, as with a hosts file that is a mount of its own in a container, it is written in place.
func change(file string, edit func(string) (string, error)) error {
	// The file that counts, where the name is a link to it.
	path, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	f, err := openLocked(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // and with it the lock
	old, err := readAll(f)
	if err != nil {
		return err
	}
	text, err := edit(old)
	if err != nil || text == old {
		return err
	}
	if err := replace(path, f, text); err == nil {
		return nil
	}
	return overwrite(f, text)
}

// replace puts a new file with the old one's mode and owner in its place.
func replace(path string, old *os.File, text string) (err error) {
	if !replaceable {
		return errors.ErrUnsupported
	}
	fi, err := old.Stat()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".hosts-bastion-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.WriteString(text)
	if err == nil {
		err = sameOwner(tmp, fi)
	}
	if err == nil {
		err = tmp.Chmod(fi.Mode().Perm())
	}
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	return err
}

func overwrite(f *os.File, text string) error {
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(text))); err != nil {
		return err
	}
	return f.Sync()
}

// explain says what the user can do where the file cannot be changed.
func explain(file string, names map[string]netip.Addr, err error) error {
	if err == nil || fail.KindOf(err) == fail.Usage {
		return err
	}
	op := "change the hosts file " + file
	if !errors.Is(err, fs.ErrPermission) {
		return fail.New(fail.Other, op, err, "name another file with --hosts-file, or do without --hosts")
	}
	next := "run the command with the rights to write it (" + elevate + ")"
	if len(names) > 0 {
		var lines []string
		for _, name := range slices.Sorted(maps.Keys(names)) {
			lines = append(lines, fmt.Sprintf("%q", names[name].String()+" "+name))
		}
		next += ", or add this to it once and for all: " + strings.Join(lines, ", ")
	}
	return fail.New(fail.Other, op, err, next+"; psql and other clients on libpq need no --hosts: see docs/clients.md")
}
