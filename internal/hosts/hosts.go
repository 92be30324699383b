// Package hosts adds names to the machine's hosts file, in blocks that their owner removes.
//
// A line of a block (see package block) has an address and a name:
//
//	127.83.12.5 orders.abc123.eu-central-1.rds.amazonaws.com
package hosts

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/block"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// maxSize bounds a hosts file, in bytes; ad blockers write a few megabytes.
const maxSize = 32 << 20

const (
	// lockWait bounds the wait for another bastion that is changing the file.
	lockWait = 10 * time.Second
	// Remove retries this often, after pauses that double. A name that stays leads to an address on which any program may
	// listen.
	removeTries                 = 6
	removePause, maxRemovePause = 50 * time.Millisecond, 2 * time.Second
)

// Path returns name, the setting's hosts file, or the system's hosts file if name is empty.
func Path(name string) string { return cmp.Or(name, defaultFile()) }

// File is a hosts file.
type File struct {
	path  string
	locks string
}

// Open returns the hosts file name, or the system's if name is empty. Every change takes a lock in the directory locks, which
// only its owner can enter. The hosts file itself is never locked: all users can read it, and a reader can hold its lock. locks
// may be "" for a File that is only read.
func Open(name, locks string) *File { return &File{path: Path(name), locks: locks} }

// Block is the block of names that one Add wrote. Its owner must call Remove.
type Block struct {
	file *File // nil: nothing to remove
	id   string
}

// CanAdd returns, before any change, the error that Add would return: a name has another address, or the user cannot write the
// file. If the file has all names, it need not be writable.
func (f *File) CanAdd(names map[string]netip.Addr) error {
	if err := check("-", names); err != nil {
		return err
	}
	missing, err := f.lacking(names)
	if err != nil || len(missing) == 0 {
		return err
	}
	w, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return f.explain(err)
	}
	return w.Close()
}

// Add writes names into the file, for the owner id (see NewID). It skips names that already have the same address; if none
// remain, it does not write the file. It fails if a name has another address.
func (f *File) Add(ctx context.Context, id string, names map[string]netip.Addr) (*Block, error) {
	if err := check(id, names); err != nil {
		return nil, err
	}
	missing, err := f.lacking(names)
	if err != nil || len(missing) == 0 {
		return &Block{}, err
	}
	err = f.change(ctx, func(text string) (string, error) {
		missing, err := missingFrom(text, names)
		if err != nil || len(missing) == 0 {
			return text, err
		}
		return appendBlock(text, id, missing), nil
	})
	if err != nil {
		return nil, f.explain(err)
	}
	return &Block{file: f, id: id}, nil
}

// Remove removes the block from the file and retries failures until ctx ends. A missing block is not an error. A caller whose
// own context has ended must pass another one.
func (b *Block) Remove(ctx context.Context) error {
	if b == nil || b.file == nil {
		return nil
	}
	for n := 1; ; n++ {
		err := b.file.change(ctx, func(text string) (string, error) {
			return without(text, func(id string) bool { return id == b.id }), nil
		})
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if n == removeTries || sleep.For(ctx, backoff.After(n-1, removePause, maxRemovePause)) != nil {
			return fail.New(fail.Other, "remove names from the hosts file "+b.file.path, err,
				"remove the lines from "+block.Begin(b.id)+" to "+block.End(b.id)+", or run a command with --hosts, which does")
		}
	}
}

// Sweep removes the blocks of owners that are no longer alive. It does not write a file without such blocks.
func (f *File) Sweep(ctx context.Context, alive func(id string) bool) error {
	if ids, err := f.Dead(alive); err != nil || len(ids) == 0 {
		return err
	}
	dead := func(id string) bool { return !alive(id) }
	return f.explain(f.change(ctx, func(text string) (string, error) { return without(text, dead), nil }))
}

// Dead returns the ids of the file's blocks that Sweep would remove.
func (f *File) Dead(alive func(id string) bool) (ids []string, err error) {
	text, err := read(f.path)
	if err != nil {
		return nil, f.explain(err)
	}
	for _, b := range blocksOf(text, func(id string) bool { return !alive(id) }) {
		ids = append(ids, b.Owner)
	}
	return ids, nil
}

// Addresses returns each name's address in the file, including those in blocks.
func (f *File) Addresses() (map[string]netip.Addr, error) {
	text, err := read(f.path)
	if err != nil {
		return nil, f.explain(err)
	}
	return parse(text), nil
}

func check(id string, names map[string]netip.Addr) error {
	if id == "" || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("hosts: %q is not an id", id)
	}
	for name, addr := range names {
		if !addr.IsLoopback() {
			return fmt.Errorf("hosts: %s is not a loopback address", addr)
		}
		if !isName(name) {
			return fail.New(fail.Usage, "", fmt.Errorf("%q is not a name for the hosts file", name),
				"leave out --hosts for this target")
		}
	}
	return nil
}

// isName reports whether name is a host name: foreign text must not add lines of its own. An address is not a name.
func isName(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil || name == "" || len(name) > 253 || strings.EqualFold(name, "localhost") {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	})
}

// lacking returns the names that the file lacks.
func (f *File) lacking(names map[string]netip.Addr) (map[string]netip.Addr, error) {
	text, err := read(f.path)
	if err != nil {
		return nil, f.explain(err)
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

// parse returns each name's first address, by the name in lower case, as resolvers do.
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

// appendBlock appends a block, with the file's line ends. If the last line has no line end, the block has none either, so that
// without can restore the text.
func appendBlock(text, id string, names map[string]netip.Addr) string {
	eol := "\n"
	if strings.Contains(text, "\r\n") || text == "" && defaultCRLF {
		eol = "\r\n"
	}
	lines := []string{block.Begin(id)}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		lines = append(lines, names[name].String()+" "+name)
	}
	lines = append(lines, block.End(id))
	added := strings.Join(lines, eol)
	if text == "" || strings.HasSuffix(text, "\n") {
		return text + added + eol
	}
	return text + eol + added
}

// without returns text without the blocks whose ids match. A block without its end line ends before the first line that is not
// a block entry.
func without(text string, match func(id string) bool) string {
	return block.Without(text, blocksOf(text, match))
}

// blocksOf returns the blocks of the matching owners.
func blocksOf(text string, match func(id string) bool) []block.Block {
	blocks, _ := block.Find(text, func(id string) bool { return id != "" && match(id) }, isEntry)
	return blocks
}

func isEntry(line string) bool {
	addr, name, ok := strings.Cut(line, " ")
	a, err := netip.ParseAddr(addr)
	return ok && err == nil && a.IsLoopback() && isName(name)
}

func read(file string) (string, error) {
	f, err := files.OpenRegular(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	text, err := readAll(f)
	return strings.TrimPrefix(text, "\ufeff"), err
}

// readAll returns the unchanged text. It refuses UTF-16, in which a block would be garbage.
func readAll(f *os.File) (string, error) {
	data, err := files.ReadAll(f, maxSize)
	if err == nil {
		_, err = files.Text(data)
	}
	return string(data), err
}

// change edits the file under its lock. It replaces the whole file. If the file cannot be replaced, for example a mount in a
// container, change writes it in place.
func (f *File) change(ctx context.Context, edit func(string) (string, error)) error {
	// The file itself, if the path is a symbolic link.
	path, err := filepath.EvalSymlinks(f.path)
	if err != nil {
		return err
	}
	lock, err := f.lock(ctx, path)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	var wrong error // edit's error
	edited := func(old []byte) ([]byte, error) {
		text, err := edit(string(old))
		wrong = err
		return []byte(text), err
	}
	if replaceable {
		_, err := files.Update(path, maxSize, 0o644, edited)
		if err == nil || wrong != nil || !inPlace(path, err) {
			return err
		}
	}
	return overwrite(path, edit)
}

// inPlace reports whether a hosts file that cannot be replaced may be written in place. That is so if it is a mount, its directory
// is not writable, or the new file would lose properties of the old one. It excludes a full disk, which would leave half a file. It
// also excludes another user's directory, where root would write wherever that user's link leads.
func inPlace(path string, err error) bool {
	isMount := errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EROFS)
	return (isMount || errors.Is(err, fs.ErrPermission) || errors.Is(err, files.ErrNotReplaceable)) &&
		!files.IsForeign(files.CheckPlace(path))
}

// lock takes the file's lock and waits at most lockWait.
func (f *File) lock(ctx context.Context, path string) (*os.File, error) {
	if err := files.PrivateDir(f.locks); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, fmt.Errorf("it is not free after %s", lockWait))
	defer cancel()
	sum := sha256.Sum256([]byte(path))
	return files.Lock(ctx, filepath.Join(f.locks, "hosts-"+hex.EncodeToString(sum[:8])+".lock"))
}

// overwrite edits a file in place.
func overwrite(path string, edit func(string) (string, error)) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	old, err := readAll(f)
	if err != nil {
		return err
	}
	text, err := edit(old)
	if err != nil || text == old {
		return err
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(text))); err != nil {
		return err
	}
	return f.Sync()
}

// explain adds the operation and the next step to an error about the file.
func (f *File) explain(err error) error {
	if err == nil || fail.KindOf(err) == fail.Usage {
		return err
	}
	op := "change the hosts file " + f.path
	if !errors.Is(err, fs.ErrPermission) {
		return fail.New(fail.Other, op, err, "name another file with --hosts-file, or leave out --hosts")
	}
	return fail.New(fail.Other, op, err, "run the command with the rights to write it ("+elevate+
		"); psql and other clients on libpq need no --hosts: see docs/clients.md")
}
