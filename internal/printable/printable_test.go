package printable

import (
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"
	"unicode/utf8"
)

// Every class of text that must not reach a terminal, and its replacement.
var classes = map[string]struct{ text, line string }{
	"C0":                     {"a\x00\x01\x07\x08\x1fb", "a?????b"},
	"escape sequence":        {"\x1b[31mred\x1b]0;title\x07", "?[31mred?]0;title?"},
	"DEL":                    {"a\x7fb", "a?b"},
	"C1":                     {"a\u0080\u0085\u009b31m\u009d\u009fb", "a???31m??b"},
	"C1 as bytes":            {"a\x9b31mb", "a?31mb"},
	"invalid UTF-8":          {"a\xff\xc3(\xed\xa0\x80\xf8b", "a??(????b"},
	"truncated UTF-8":        {"a\xe2\x82", "a??"},
	"bidirectional controls": {"a\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069b", "a????????????b"},
	"zero width":             {"a\u200b\u200c\u200d\u2060\ufeff\u00adb", "a??????b"},
	"separators":             {"a\u2028\u2029b", "a??b"},
	"spaces":                 {"a\u00a0\u2003\u3000\u1680b", "a????b"},
	"lines and tabs":         {"a\nb\r\nc\td\ve\f", "a?b??c?d?e?"},
	"tags":                   {"a\U000e0041\U000e007fb", "a??b"},
	"private and unassigned": {"a\ue000\U000f0000\u0378\U0010ffffb", "a????b"},
	"fillers":                {"a\u3164\u115f\u1160\uffa0\u2800\u034f\U00016fe4\U0001d159b", "a????????b"},
	"variation selectors":    {"a\ufe0f\U000e0100\u180bb", "a???b"},
	"interlinear":            {"a\ufff9\ufffa\ufffbb", "a???b"},
	"printable":              {"Grüße, 世界 ✓ “orders” 🙂 \ufffd e\u0301", "Grüße, 世界 ✓ “orders” 🙂 \ufffd e\u0301"},
}

func TestClasses(t *testing.T) {
	for name, tt := range classes {
		if got := Line(tt.text); got != tt.line {
			t.Errorf("%s: Line %q, want %q", name, got, tt.line)
		}
		for what, got := range map[string]string{
			"Text": Text(tt.text), "Line": Line(tt.text), "Row": Row(tt.text, 1), "JSON": string(JSON(must(json.Marshal(tt.text)))),
		} {
			for _, r := range got {
				if !unicode.IsPrint(r) && !(what == "Text" && (r == '\n' || r == '\t')) && !(what == "Row" && r == '\t') {
					t.Errorf("%s: %s leaves %U", name, what, r)
				}
			}
			if !utf8.ValidString(got) {
				t.Errorf("%s: %s is not UTF-8", name, what)
			}
		}
		if n := strings.Count(Row(tt.text, "b"), "\t"); n != 1 {
			t.Errorf("%s: a cell makes %d tabs", name, n)
		}
	}
	if got := Text("a\r\nb\tc\rd\n"); got != "a\nb\tc?d\n" {
		t.Errorf("Text %q", got)
	}
}

// Escaped JSON is the same data.
func TestJSONIsTheSameData(t *testing.T) {
	for name, tt := range classes {
		in := map[string]any{tt.text: []any{tt.text, 1.5, nil}}
		text := must(json.Marshal(in))
		var want, got any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(JSON(text), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// A Writer writes the same however its input is cut.
func TestWriter(t *testing.T) {
	for name, tt := range classes {
		var whole, bytewise strings.Builder
		for w, r := range map[*strings.Builder]io.Reader{
			&whole: strings.NewReader(tt.text + "."), &bytewise: iotest.OneByteReader(strings.NewReader(tt.text + ".")),
		} {
			if _, err := io.Copy(NewWriter(w), r); err != nil {
				t.Fatal(err)
			}
		}
		if want := Text(tt.text + "."); whole.String() != want || bytewise.String() != want {
			t.Errorf("%s: %q and %q, want %q", name, whole.String(), bytewise.String(), want)
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
