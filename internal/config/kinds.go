package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/duration"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// kind converts a setting's text into its field and back.
type kind interface {
	set(dst *Settings, text string) error
	text(src *Settings) string
	shape() shape
}

// shape is the form of a value in a configuration file, in the words of errors.
type shape string

const (
	one   shape = "one value"
	onOff shape = "true or false"
	many  shape = "a list"
	named shape = "a mapping of names to values"
)

// typed is a kind with values of type T. parse checks and reads the text; format is its inverse.
type typed[T any] struct {
	field  func(*Settings) *T
	parse  func(string) (T, error)
	format func(T) string
	form   shape
}

func (k typed[T]) set(dst *Settings, text string) error {
	v, err := k.parse(text)
	if err == nil {
		*k.field(dst) = v
	}
	return err
}

func (k typed[T]) text(src *Settings) string { return k.format(*k.field(src)) }

func (k typed[T]) shape() shape { return cmp.Or(k.form, one) }

// text is the kind of a word or line. Each check returns an error for a wrong text.
func text(field func(*Settings) *string, checks ...func(string) error) kind {
	return typed[string]{field: field, format: plain, parse: func(text string) (string, error) {
		for _, check := range checks {
			if err := check(text); err != nil {
				return "", err
			}
		}
		return text, nil
	}}
}

func toggle(field func(*Settings) *bool) kind {
	return typed[bool]{field: field, form: onOff, format: strconv.FormatBool, parse: ParseSwitch}
}

// ParseSwitch reads the value of a switch, in upper or lower case.
func ParseSwitch(text string) (bool, error) {
	v, err := strconv.ParseBool(strings.ToLower(text))
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", text)
	}
	return v, nil
}

func number(field func(*Settings) *int, parse func(string) (int, error)) kind {
	return typed[int]{field: field, parse: parse, format: strconv.Itoa}
}

func span(field func(*Settings) *time.Duration, parse func(string) (time.Duration, error)) kind {
	return typed[time.Duration]{field: field, parse: parse, format: time.Duration.String}
}

func price(field func(*Settings) *float64) kind {
	return typed[float64]{field: field, parse: usd, format: func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }}
}

// address is the kind of a loopback address with a port; the zero value has an empty text.
func address(field func(*Settings) *netip.AddrPort) kind {
	return typed[netip.AddrPort]{field: field, parse: loopback, format: func(addr netip.AddrPort) string {
		if !addr.IsValid() {
			return ""
		}
		return addr.String()
	}}
}

// list is the kind of a comma-separated list. Its error names each wrong item.
func list[T any](field func(*Settings) *[]T, parse func(string) (T, error), format func(T) string) kind {
	return typed[[]T]{
		field: field, form: many,
		parse: func(text string) ([]T, error) {
			words, err := splitList(text)
			var out []T
			for _, word := range words {
				item, wrong := parse(word)
				err = errors.Join(err, wrong)
				out = append(out, item)
			}
			return out, err
		},
		format: func(items []T) string {
			var words []string
			for _, item := range items {
				words = append(words, format(item))
			}
			return strings.Join(words, ",")
		},
	}
}

func pairs(field func(*Settings) *map[string]string) kind {
	return typed[map[string]string]{field: field, form: named, parse: splitMap, format: joinMap}
}

// word parses an item that needs no check.
func word(text string) (string, error) { return text, nil }

// plain formats a string.
func plain(text string) string { return text }

func splitList(text string) ([]string, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var out []string
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			return nil, fmt.Errorf("%q has an empty item", text)
		}
		out = append(out, item)
	}
	return out, nil
}

func splitMap(text string) (map[string]string, error) {
	items, err := splitList(text)
	if err != nil || items == nil {
		return nil, err
	}
	out := make(map[string]string, len(items))
	for _, item := range items {
		k, v, ok := strings.Cut(item, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if !ok || k == "" {
			return nil, fmt.Errorf("%q is not KEY=VALUE", item)
		}
		if _, dup := out[k]; dup {
			return nil, fmt.Errorf("duplicate key %q", k)
		}
		out[k] = v
	}
	return out, nil
}

// joinMap is the inverse of splitMap.
func joinMap(m map[string]string) string {
	var items []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		items = append(items, key+"="+m[key])
	}
	return strings.Join(items, ",")
}

// region matches a region's name, which becomes part of the host names that signed requests go to.
var region = pattern.Lazy(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func awsRegion(text string) error {
	if !region().MatchString(text) {
		return fmt.Errorf("%q is not the name of a region, such as eu-central-1", text)
	}
	return nil
}

func notEmpty(text string) error {
	if strings.TrimSpace(text) == "" {
		return errors.New("must not be empty")
	}
	return nil
}

func positive(text string) (time.Duration, error) {
	d, err := duration.Parse(text)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%s is not positive", text)
	}
	return d, err
}

func usd(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || v < 0 || v > 1000 {
		return 0, fmt.Errorf("%q is not a price from 0 to 1000, such as 0.04048", text)
	}
	return v, nil
}

// loopback parses a loopback address and port. It refuses names, because a name may lead elsewhere tomorrow.
func loopback(text string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(text)
	if err != nil || !addr.Addr().IsLoopback() {
		return addr, fmt.Errorf("%q is not a loopback address with a port, such as 127.0.0.1:9464", text)
	}
	return addr, nil
}

func between(low, high time.Duration) func(string) (time.Duration, error) {
	return func(text string) (time.Duration, error) {
		d, err := duration.Parse(text)
		if err == nil && (d < low || d > high) {
			err = fmt.Errorf("%s is not between %s and %s", text, duration.String(low), duration.String(high))
		}
		return d, err
	}
}

func intBetween(low, high int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		switch {
		case err != nil:
			return 0, fmt.Errorf("%q is not a whole number", text)
		case n < low || n > high:
			return 0, fmt.Errorf("%d is not between %d and %d", n, low, high)
		}
		return n, nil
	}
}

// hostPort parses a grant's destination: a host pattern, and a port or *.
func hostPort(text string) (string, error) {
	if _, port, err := net.SplitHostPort(text); err != nil || port == "" {
		return "", fmt.Errorf("%q is not HOST:PORT", text)
	}
	return text, nil
}

func oneOf(words ...string) func(string) error {
	return func(text string) error {
		if slices.Contains(words, text) {
			return nil
		}
		return fmt.Errorf("%q is not one of: %s", text, strings.Join(words, ", "))
	}
}

func ssmTarget(text string) error {
	switch {
	case strings.HasPrefix(text, "i-") && len(text) > 2, strings.HasPrefix(text, "mi-") && len(text) > 3:
		return nil
	case strings.HasPrefix(text, "ecs:"):
		if strings.Count(text, "_") >= 2 {
			return nil
		}
		return fmt.Errorf("%q is not ecs:<cluster>_<task id>_<runtime id>", text)
	}
	return fmt.Errorf("%q is not an SSM target: i-..., mi-... or ecs:<cluster>_<task id>_<runtime id>", text)
}

// IsPublicKey reports whether text looks like a public key in authorized_keys form rather than a path.
func IsPublicKey(text string) bool {
	kind, rest, ok := strings.Cut(strings.TrimSpace(text), " ")
	return ok && rest != "" &&
		(strings.HasPrefix(kind, "ssh-") || strings.HasPrefix(kind, "ecdsa-") || strings.HasPrefix(kind, "sk-"))
}
