package console

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// colours are the names of colours in the order of the codes of terminals, which begin at 31.
var colours = []string{"red", "green", "yellow", "blue", "magenta", "cyan", "white"}

// Colour returns the sequence that begins a colour on a terminal, by its name or as #rrggbb; "" for any other text.
func Colour(name string) string {
	if i := slices.Index(colours, name); i >= 0 {
		return fmt.Sprintf("\x1b[%dm", 31+i)
	}
	digits, ok := strings.CutPrefix(name, "#")
	rgb, err := hex.DecodeString(digits)
	if !ok || err != nil || len(rgb) != 3 {
		return ""
	}
	return fmt.Sprintf("\x1b[38;2;%d;%d;%dm", rgb[0], rgb[1], rgb[2])
}
