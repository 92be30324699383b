package files

import (
	"encoding/binary"
	"errors"
	"testing"
	"unicode/utf16"
)

// inUTF16 encodes text as Windows tools do.
func inUTF16(text string, order binary.AppendByteOrder) []byte {
	var out []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		out = order.AppendUint16(out, unit)
	}
	return out
}

func TestText(t *testing.T) {
	const text = "cluster: dev # für alle\n"
	for what, data := range map[string][]byte{
		"plain": []byte(text), "with a mark": []byte("\ufeff" + text),
	} {
		got, err := Text(data)
		if err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	for what, text := range map[string]string{"text": text, "with a mark": "\ufeff" + text, "a mark alone": "\ufeff", "a letter": "a"} {
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			if got, err := Text(inUTF16(text, order)); !errors.Is(err, ErrUTF16) {
				t.Errorf("%s in UTF-16, %s: %q, %v", what, order, got, err)
			}
		}
	}
	for what, text := range map[string]string{
		"empty": "", "a byte": "a", "a zero byte": "\x00", "zero bytes": "\x00\x00\x00\x00", "a zero in a text": "ab\x00cdefgh",
		"not UTF-8": "name: \xfcber", "a mark within": "a\ufeffb",
	} {
		if got, err := Text([]byte(text)); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
}
