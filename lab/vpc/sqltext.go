package vpc

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// tokenKind is the kind of a piece of SQL text.
type tokenKind uint8

const (
	tokSpace  tokenKind = iota // white space and comments
	tokWord                    // key words, names, also quoted ones
	tokString                  // string literals
	tokNumber
	tokParam  // $1
	tokSymbol // operators and punctuation, one character each except "::"
)

type token struct {
	kind tokenKind
	text string
}

// is reports whether the token is the given key word or symbol.
func (t token) is(word string) bool {
	return (t.kind == tokWord || t.kind == tokSymbol) && strings.EqualFold(t.text, word)
}

// statement is one SQL statement as PostgreSQL's clients write it.
type statement struct {
	tokens []token // without the closing semicolon, space at the ends cut off
}

// splitSQL splits text into its statements, without empty ones.
func splitSQL(text string) []statement {
	var all []statement
	var current []token
	flush := func() {
		for len(current) > 0 && current[0].kind == tokSpace {
			current = current[1:]
		}
		for len(current) > 0 && current[len(current)-1].kind == tokSpace {
			current = current[:len(current)-1]
		}
		if len(current) > 0 {
			all = append(all, statement{tokens: current})
		}
		current = nil
	}
	for text != "" {
		t := nextToken(text)
		text = text[len(t.text):]
		if t.is(";") {
			flush()
			continue
		}
		current = append(current, t)
	}
	flush()
	return all
}

// nextToken returns the first token of text, which is not empty. An unclosed quote or comment runs to the end.
func nextToken(text string) token {
	c := text[0]
	switch {
	case isSpace(c):
		return token{tokSpace, text[:spanOf(text, isSpace)]}
	case strings.HasPrefix(text, "--"):
		return token{tokSpace, upTo(text, 2, "\n")}
	case strings.HasPrefix(text, "/*"):
		return token{tokSpace, upTo(text, 2, "*/")}
	case c == '\'':
		return token{tokString, quoted(text, '\'')}
	case c == '"':
		return token{tokWord, quoted(text, '"')}
	case c == '$':
		if n := spanOf(text[1:], isDigit); n > 0 {
			return token{tokParam, text[:1+n]}
		}
		if tag := dollarTag(text); tag != "" {
			return token{tokString, upTo(text, len(tag), tag)}
		}
		return token{tokSymbol, text[:1]}
	case isDigit(c), c == '.' && len(text) > 1 && isDigit(text[1]):
		return token{tokNumber, text[:spanOf(text, func(c byte) bool { return isNameByte(c) || c == '.' })]}
	case isNameByte(c):
		return token{tokWord, text[:spanOf(text, isNameByte)]}
	case strings.HasPrefix(text, "::"):
		return token{tokSymbol, text[:2]}
	}
	_, size := utf8.DecodeRuneInString(text)
	return token{tokSymbol, text[:size]}
}

func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isNameByte accepts every byte of a multi-byte character as part of a name, as PostgreSQL does.
func isNameByte(c byte) bool {
	return c == '_' || isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf
}

func spanOf(text string, in func(byte) bool) int {
	n := 0
	for n < len(text) && in(text[n]) {
		n++
	}
	return n
}

// upTo returns text up to and with the first end after from.
func upTo(text string, from int, end string) string {
	if i := strings.Index(text[from:], end); i >= 0 {
		return text[:from+i+len(end)]
	}
	return text
}

// quoted returns the quoted piece at the start of text; a doubled quote stands for one.
func quoted(text string, quote byte) string {
	for i := 1; i < len(text); i++ {
		if text[i] != quote {
			continue
		}
		if i+1 < len(text) && text[i+1] == quote {
			i++
			continue
		}
		return text[:i+1]
	}
	return text
}

// dollarTag returns the "$tag$" at the start of text, or nothing.
func dollarTag(text string) string {
	n := 1 + spanOf(text[1:], isNameByte)
	if n < len(text) && text[n] == '$' {
		return text[:n+1]
	}
	return ""
}

// words returns the statement's first n words in upper case, space left out; "" where there are fewer or other tokens.
func (s statement) words(n int) []string {
	out := make([]string, n)
	i := 0
	for _, t := range s.tokens {
		if t.kind == tokSpace {
			continue
		}
		if i == n || t.kind != tokWord {
			break
		}
		out[i] = strings.ToUpper(t.text)
		i++
	}
	return out
}

// find returns the index of the first of the words outside parentheses, or -1.
func (s statement) find(words ...string) int {
	depth := 0
	for i, t := range s.tokens {
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case depth == 0 && t.kind == tokWord:
			if slices.ContainsFunc(words, t.is) {
				return i
			}
		}
	}
	return -1
}

// params returns how many parameters the statement takes, and for those that are cast ($1::int) the type's name.
func (s statement) params() (count int, casts map[int]string) {
	casts = map[int]string{}
	for i, t := range s.tokens {
		if t.kind != tokParam {
			continue
		}
		n, err := strconv.Atoi(t.text[1:])
		if err != nil || n == 0 || n > 65535 {
			continue // SQLite will refuse it
		}
		count = max(count, n)
		if i+2 < len(s.tokens) && s.tokens[i+1].is("::") {
			casts[n] = strings.ToLower(s.tokens[i+2].text)
		}
	}
	return count, casts
}

// forSQLite returns the statement in SQLite's dialect: $1 as ?1, x::t as CAST(x AS t), dollar quotes as plain ones, SERIAL as
// SQLite's row id. ILIKE becomes LIKE, which ignores case there. PostgreSQL's special names become their values in names.
func (s statement) forSQLite(names map[string]string) string {
	var out []string // one entry a token
	for i := 0; i < len(s.tokens); i++ {
		t := s.tokens[i]
		switch {
		case t.kind == tokParam:
			out = append(out, "?"+t.text[1:])
		case t.kind == tokString && t.text[0] == '$':
			out = append(out, plainQuotes(t.text))
		case t.is("::"):
			typ, n := typeName(s.tokens[i+1:])
			i += n
			from := operandStart(out)
			operand := strings.Join(out[from:], "")
			out = append(out[:from], "CAST("+operand+" AS "+typ+")")
		case t.is("serial"), t.is("bigserial"):
			out = append(out, "INTEGER")
		case t.is("ilike"):
			out = append(out, "LIKE")
		case t.is("current_user"), t.is("session_user"):
			out = append(out, literal(names["user"]))
		case t.is("now") && s.callAt(i):
			out = append(out, "(strftime('%Y-%m-%d %H:%M:%f+00','now'))")
			i += 2
		case (t.is("current_database") || t.is("current_schema")) && s.callAt(i):
			out = append(out, literal(names[strings.TrimPrefix(strings.ToLower(t.text), "current_")]))
			i += 2
		default:
			out = append(out, t.text)
		}
	}
	return strings.Join(out, "")
}

// callAt reports whether the tokens after i are "()".
func (s statement) callAt(i int) bool {
	return i+2 < len(s.tokens) && s.tokens[i+1].is("(") && s.tokens[i+2].is(")")
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// plainQuotes turns $tag$text$tag$ into 'text'.
func plainQuotes(s string) string {
	tag := dollarTag(s)
	return literal(strings.TrimSuffix(strings.TrimPrefix(s, tag), tag))
}

// typeName returns the type at the start of tokens ("double precision", "numeric(10, 2)") and how many tokens it takes.
func typeName(tokens []token) (name string, n int) {
	for n < len(tokens) && tokens[n].kind == tokSpace {
		n++
	}
	if n == len(tokens) || tokens[n].kind != tokWord {
		return "", n
	}
	first := n
	n++
	for n+1 < len(tokens) && tokens[n].kind == tokSpace &&
		(tokens[n+1].is("precision") || tokens[n+1].is("varying")) {
		n += 2
	}
	if n < len(tokens) && tokens[n].is("(") {
		for n < len(tokens) && !tokens[n].is(")") {
			n++
		}
		n = min(n+1, len(tokens))
	}
	var b strings.Builder
	for _, t := range tokens[first:n] {
		b.WriteString(t.text)
	}
	return b.String(), n
}

// operandStart returns where the operand that ends the output begins: one token, a qualified name, or something in
// parentheses with the function's name before it.
func operandStart(out []string) int {
	i := len(out) - 1
	for i > 0 && strings.TrimSpace(out[i]) == "" {
		i--
	}
	if i < 0 {
		return 0
	}
	if out[i] == ")" {
		for depth := 0; i >= 0; i-- {
			switch out[i] {
			case ")":
				depth++
			case "(":
				depth--
			}
			if depth == 0 {
				break
			}
		}
		i = max(i, 0)
		if i == 0 || !isName(out[i-1]) {
			return i
		}
		i--
	}
	for i >= 2 && out[i-1] == "." && isName(out[i-2]) {
		i -= 2
	}
	return i
}

func isName(s string) bool {
	return s != "" && (isNameByte(s[0]) && !isDigit(s[0]) || s[0] == '"')
}
