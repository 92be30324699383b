package keys

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A proof holds for the secret, the SSH connection and the keys that it was made for, and for nothing else.
func TestProof(t *testing.T) {
	host, client := newPair(t).PublicKey(), newPair(t).PublicKey()
	secret := NewSecret()
	contact := Contact{Session: []byte("session 1"), HostKey: host, ClientKey: client}
	proof := secret.Prove(contact)
	if !IsProof(proof) {
		t.Errorf("%q is not seen as a proof", proof)
	}
	other := newPair(t).PublicKey()
	for name, tt := range map[string]struct {
		secret Secret
		banner string
		change func(*Contact)
		ok     bool
	}{
		"the same":               {secret: secret, banner: proof, ok: true},
		"another secret":         {secret: NewSecret(), banner: proof},
		"no secret":              {banner: Secret{}.Prove(contact)},
		"another session":        {secret: secret, banner: proof, change: func(c *Contact) { c.Session = []byte("session 2") }},
		"another host key":       {secret: secret, banner: proof, change: func(c *Contact) { c.HostKey = other }},
		"another client key":     {secret: secret, banner: proof, change: func(c *Contact) { c.ClientKey = other }},
		"keys exchanged":         {secret: secret, banner: proof, change: func(c *Contact) { c.HostKey, c.ClientKey = client, host }},
		"a shorter session":      {secret: secret, banner: proof, change: func(c *Contact) { c.Session = c.Session[:8] }},
		"cut short":              {secret: secret, banner: proof[:len(proof)-3]},
		"nothing but the marker": {secret: secret, banner: proofMarker},
		"more behind it":         {secret: secret, banner: proof + "x"},
		"another marker":         {secret: secret, banner: strings.Replace(proof, "v1", "v2", 1)},
		"empty":                  {secret: secret},
	} {
		c := contact
		if tt.change != nil {
			tt.change(&c)
		}
		if err := tt.secret.Check(tt.banner, c); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrWrongProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A grant's word carries the secret, and nothing prints it.
func TestSecretIsHidden(t *testing.T) {
	g, err := NewGrant(newPair(t).PublicKey(), arn, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	g.Secret = NewSecret()
	word, err := g.Encode()
	if err != nil || !strings.HasPrefix(word, secretPrefix) {
		t.Fatalf("%q, %v", word, err)
	}
	got, err := ParseGrant(word)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(g, got); d != "" {
		t.Error(d)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		if text := fmt.Sprintf(verb, g.Secret); text != "[secret]" {
			t.Errorf("%s prints %q", verb, text)
		}
	}
	if text := fmt.Sprintf("%+v", g); !strings.Contains(text, "Secret:[secret]") {
		t.Errorf("a grant prints as %s", text)
	}
}
