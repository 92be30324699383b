package files

import (
	"bytes"
	"errors"
	"os"
)

// ErrUTF16 says that a text is in UTF-16. Windows tools call this encoding Unicode.
var ErrUTF16 = errors.New("it is in UTF-16, not in UTF-8; save it again as UTF-8 (PowerShell: Set-Content -Encoding utf8)")

// textProbe is how much of a text is searched for its encoding, in bytes.
const textProbe = 64

var (
	utf8Mark   = []byte("\xef\xbb\xbf")
	utf16Marks = [][]byte{[]byte("\xff\xfe"), []byte("\xfe\xff")}
)

// ReadText returns a file's text; see Text.
func ReadText(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Text(data)
}

// Text returns the UTF-8 text of a user's file, without the byte order mark that Windows editors write. For UTF-16 of either
// byte order, with or without a mark, it returns ErrUTF16. It does not check other bytes.
func Text(data []byte) ([]byte, error) {
	for _, mark := range utf16Marks {
		if bytes.HasPrefix(data, mark) {
			return nil, ErrUTF16
		}
	}
	// The texts begin with ASCII. In UTF-16 every second byte of ASCII is zero.
	head := data[:min(len(data), textProbe)&^1]
	var zeros [2]int
	for i, b := range head {
		if b == 0 {
			zeros[i%2]++
		}
	}
	if pairs := len(head) / 2; pairs > 0 && (zeros[0] == 0 && 2*zeros[1] > pairs || zeros[1] == 0 && 2*zeros[0] > pairs) {
		return nil, ErrUTF16
	}
	return bytes.TrimPrefix(data, utf8Mark), nil
}
