package block

import (
	"strings"
	"testing"
)

func all(string) bool { return true }

func TestWithout(t *testing.T) {
	isBody := func(line string) bool { return strings.HasPrefix(line, "127.") }
	only := func(owner string) func(string) bool { return func(o string) bool { return o == owner } }
	const a, b = "# BEGIN bastion a\n127.0.0.2 a\n# END bastion a\n", "# BEGIN bastion b\n127.0.0.3 b\n# END bastion b\n"
	for name, tt := range map[string]struct {
		text, want string
		own        func(string) bool
	}{
		"none":                      {"x\n", "x\n", all},
		"both":                      {"x\n" + a + "y\n" + b, "x\ny\n", all},
		"one of two":                {a + b, b, only("a")},
		"nobody's":                  {"# BEGIN bastion\nx\n# END bastion\n" + a, "# BEGIN bastion\nx\n# END bastion\n", only("a")},
		"another program's":         {"# BEGIN bastions\n" + a + "# END bastions\n", "# BEGIN bastions\n# END bastions\n", all},
		"no last line end":          {"x\n" + strings.TrimSuffix(a, "\n"), "x", all},
		"Windows":                   {"x\r\n" + strings.ReplaceAll(a, "\n", "\r\n") + "y", "x\r\ny", all},
		"Windows, no last line end": {"x\r\n" + strings.TrimSuffix(strings.ReplaceAll(a, "\n", "\r\n"), "\r\n"), "x", all},
		"no end":                    {"# BEGIN bastion a\n127.0.0.2 a\n10.0.0.8 printer\n127.0.0.4 c\n", "10.0.0.8 printer\n127.0.0.4 c\n", all},
		"no end before another":     {"# BEGIN bastion a\n127.0.0.2 a\n" + b + "x\n", "x\n", all},
		"another's end":             {"# BEGIN bastion a\n# END bastion b\nx\n", "# END bastion b\nx\n", all},
	} {
		blocks, _ := Find(tt.text, tt.own, isBody)
		if got := Without(tt.text, blocks); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestOnly(t *testing.T) {
	begin, end := Begin("")+"\n", End("")+"\n"
	for text, want := range map[string]string{
		"":                                  "",
		"x\n":                               "",
		begin + end:                         begin + end,
		"x\n" + begin + "y\n" + end + "z\n": begin + "y\n" + end,
		" " + begin + "\t" + end:            " " + begin + "\t" + end,
		begin + "y":                         "no end",
		end:                                 "before it begins",
		begin + end + end:                   "before it begins",
		begin + begin + end:                 "begins twice",
		begin + end + begin + end:           "begins twice",
		Begin("a") + "\n" + end:             "before it begins",
	} {
		b, err := Only(text)
		if err != nil {
			if want == "" || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", text, err, want)
			}
		} else if got := text[b.From:b.To]; got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
