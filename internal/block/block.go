// Package block finds the blocks of lines that the program keeps in text files of others: names in the hosts file, hosts in
// ssh_config. A block is between two lines, which may name its owner:
//
//	# BEGIN bastion 4711-182736-1
//	# END bastion 4711-182736-1
//
// Everything outside of blocks stays as it is, byte for byte.
package block

import (
	"errors"
	"strings"
)

const (
	begin = "# BEGIN bastion"
	end   = "# END bastion"
)

// Begin is the line that begins the block of an owner, "" for the only one of a file.
func Begin(owner string) string { return strings.TrimSpace(begin + " " + owner) }

// End is the line that ends it.
func End(owner string) string { return strings.TrimSpace(end + " " + owner) }

// Block is where a block stands in a text: its bytes, with both lines.
type Block struct {
	Owner    string
	From, To int
	IsOpen   bool // its end is missing
}

// Find returns the blocks of the owners that own accepts. isBody says which lines a block may have: a block whose end is missing
// ends before the first other line, or at another block; nil: it may have any. isStray says that there is an end without a beginning.
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

// Only returns the block of a file that has one at most; From and To are 0 where there is none.
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

// Without returns text without blocks of it. Where the last one has no line end, the line before it had none.
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
