// Package block finds the blocks of lines that the program keeps in text files of other owners: names in the hosts file, hosts
// in ssh_config. Two lines enclose a block. They may name its owner:
//
//	# BEGIN bastion 4711-182736-1
//	# END bastion 4711-182736-1
//
// Text outside of blocks stays byte for byte.
package block

import (
	"errors"
	"strings"
)

const (
	begin = "# BEGIN bastion"
	end   = "# END bastion"
)

// Begin returns the first line of an owner's block. The owner is "" for a file's only block.
func Begin(owner string) string { return strings.TrimSpace(begin + " " + owner) }

// End returns the last line of an owner's block.
func End(owner string) string { return strings.TrimSpace(end + " " + owner) }

// Block is a block's position in a text, in bytes, including both lines.
type Block struct {
	Owner    string
	From, To int
	IsOpen   bool // its end line is missing
}

// Find returns the blocks of the owners that own accepts. isBody reports whether a line may stand in a block; nil: any line
// may. A block without an end line ends before the first other line, or at another block. isStray reports an end line without a
// begin line.
func Find(text string, own func(owner string) bool, isBody func(line string) bool) (blocks []Block, isStray bool) {
	at := 0
	var open *Block
	for line := range strings.Lines(text) {
		bare, next := strings.TrimSpace(line), at+len(line)
		if owner, ok := ownerOf(bare, begin); ok && own(owner) {
			blocks = append(blocks, Block{Owner: owner, From: at, To: next, IsOpen: true})
			open = &blocks[len(blocks)-1]
			at = next
			continue
		}
		owner, isEnd := ownerOf(bare, end)
		isEnd = isEnd && own(owner)
		switch {
		case isEnd && open != nil && owner == open.Owner:
			open.To, open.IsOpen = next, false
			open = nil
		case open != nil && (isBody == nil || isBody(bare)):
			open.To = next
		default:
			open, isStray = nil, isStray || isEnd
		}
		at = next
	}
	return blocks, isStray
}

func ownerOf(line, mark string) (owner string, ok bool) {
	rest, ok := strings.CutPrefix(line, mark)
	return strings.TrimSpace(rest), ok && (rest == "" || rest[0] == ' ')
}

// Only returns the block of a file that may have one; zero if there is none.
func Only(text string) (Block, error) {
	blocks, isStray := Find(text, func(owner string) bool { return owner == "" }, nil)
	switch {
	case isStray:
		return Block{}, errors.New("bastion's block ends before it begins")
	case len(blocks) > 1:
		return Block{}, errors.New("bastion's block begins twice")
	case len(blocks) == 0:
		return Block{}, nil
	case blocks[0].IsOpen:
		return Block{}, errors.New("bastion's block has no end")
	}
	return blocks[0], nil
}

// Without returns text without the given blocks of it. If the last block lacks a final newline, the text before it loses its
// own.
func Without(text string, blocks []Block) string {
	var kept strings.Builder
	at := 0
	for _, b := range blocks {
		kept.WriteString(text[at:b.From])
		at = b.To
	}
	kept.WriteString(text[at:])
	if len(blocks) > 0 && at == len(text) && !strings.HasSuffix(text, "\n") {
		return strings.TrimSuffix(strings.TrimSuffix(kept.String(), "\n"), "\r")
	}
	return kept.String()
}
