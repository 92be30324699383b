package price

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/internal/pattern"
)

// Amount is an exact number: US dollars, or how many of something. The zero value is 0.
type Amount struct{ r *big.Rat }

// rat is the number; the caller must not change it.
func (a Amount) rat() *big.Rat {
	if a.r == nil {
		return new(big.Rat)
	}
	return a.r
}

func count(n int64) Amount { return Amount{big.NewRat(n, 1)} }

func fraction(n, of int64) Amount { return Amount{big.NewRat(n, of)} }

func (a Amount) plus(b Amount) Amount { return Amount{new(big.Rat).Add(a.rat(), b.rat())} }

func (a Amount) times(b Amount) Amount { return Amount{new(big.Rat).Mul(a.rat(), b.rat())} }

// Cmp compares two amounts: -1, 0 or 1.
func (a Amount) Cmp(b Amount) int { return a.rat().Cmp(b.rat()) }

// Round returns the amount with so many decimal places; a half goes away from zero.
func (a Amount) Round(places int) string { return a.rat().FloatString(places) }

// maxPlaces are the decimal places of an amount that has no end.
const maxPlaces = 12

// String returns the amount with all its decimal places, or with twelve if they have no end.
func (a Amount) String() string {
	text := a.rat().FloatString(maxPlaces)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// MarshalText returns String.
func (a Amount) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// decimal is the form of a price: what big.Rat takes besides, fractions and exponents, is none.
var decimal = pattern.Lazy(`^[0-9]{1,9}(\.[0-9]{1,12})?$`)

// UnmarshalText reads a decimal number, at least 0.
func (a *Amount) UnmarshalText(text []byte) error {
	r, ok := new(big.Rat).SetString(string(text))
	if !ok || !decimal().Match(text) {
		return fmt.Errorf("%.40q is not a price such as 0.04048", text)
	}
	a.r = r
	return nil
}

// ofFloat is the shortest decimal number that is read as f: what a person wrote in a setting.
func ofFloat(f float64) Amount {
	r, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'f', -1, 64))
	return Amount{r}
}
