package keys

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What ParseGrant accepts has one spelling. The input is tried as a word and as the JSON text in one, which mutations
// reach better.
func FuzzParseGrant(f *testing.F) {
	g, err := NewGrant(newPair(f).PublicKey(), arn, []string{"*.internal:1-1024"}, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	word, err := g.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(word)
	g.Secret = NewSecret()
	if word, err = g.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(word)
	f.Fuzz(func(t *testing.T, input string) {
		for _, word := range []string{input, grantWord(input), "v2" + grantWord(input)[2:]} {
			g, err := ParseGrant(word)
			if err != nil {
				if d := cmp.Diff(Grant{}, g); d != "" {
					t.Errorf("an error and a grant: %s", d)
				}
				continue
			}
			if again, err := g.Encode(); err != nil || again != word {
				t.Errorf("%q encodes to %q, %v", word, again, err)
			}
		}
	})
}

// What FindGrantReply accepts is written and found again as the same reply.
func FuzzFindGrantReply(f *testing.F) {
	r := GrantReply{
		V: ReplyVersion, Version: "1", HostKey: authorizedKey(newPair(f).PublicKey()), Ports: Ports{SSH: 22}, Grant: "i",
		NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	f.Add([]byte("noise\r\n" + r.Line() + "\r\n"))
	r.Ports.Bond = 23
	f.Add([]byte(r.Line() + "\n"))
	f.Add([]byte(GrantReply{V: ReplyVersion, Error: "no", Code: CodeFull}.Line()))
	f.Fuzz(func(t *testing.T, output []byte) {
		r, found, err := FindGrantReply(output)
		if !found || err != nil {
			if d := cmp.Diff(GrantReply{}, r); d != "" {
				t.Errorf("no reply was found, but %s", d)
			}
			return
		}
		again, found, err := FindGrantReply([]byte("\x1b" + r.Line() + "\r\n"))
		if d := cmp.Diff(r, again); !found || err != nil || d != "" {
			t.Errorf("found %v, error %v: %s", found, err, d)
		}
	})
}
