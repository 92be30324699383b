package targets

import (
	"slices"
	"testing"
)

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"orders", "orders", 0},
		{"ordes", "orders", 1},
		{"oredrs", "orders", 1}, // two neighbours swapped
		{"kitten", "sitting", 3},
		{"ca", "abc", 3},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := distance(tt.b, tt.a); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}

func TestClosest(t *testing.T) {
	names := []string{"orders", "orders-replica", "stock", "billing", "order", "customers"}
	for _, tt := range []struct {
		name string
		want []string
	}{
		{"ordesr", []string{"order", "orders"}},
		{"Orders", []string{"orders", "order", "orders-replica"}},
		{"stok", []string{"stock"}},
		{"bill", []string{"billing"}},
		{"zzz", nil},
		{"x", nil},
	} {
		if got := closest(tt.name, names); !slices.Equal(got, tt.want) {
			t.Errorf("closest(%q) = %v, want %v", tt.name, got, tt.want)
		}
	}
}
