package targets

import (
	"slices"
	"testing"
)

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
