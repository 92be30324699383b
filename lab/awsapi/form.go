package awsapi

import (
	"net/url"
	"slices"
	"strconv"
)

// Filter is a filter of a Describe call: the name, and values of which one must match.
type Filter struct {
	Name   string
	Values []string
}

// List returns the members prefix.1, prefix.2, ... of a form.
func List(form url.Values, prefix string) []string {
	var list []string
	for i := 1; ; i++ {
		key := prefix + "." + strconv.Itoa(i)
		if !form.Has(key) {
			return list
		}
		list = append(list, form.Get(key))
	}
}

// Filters returns the filters of a form. The names of the lists differ: "Filter" and "Value" for EC2,
// "Filters.Filter" and "Values.Value" for RDS.
func Filters(form url.Values, list, values string) []Filter {
	var filters []Filter
	for i := 1; ; i++ {
		prefix := list + "." + strconv.Itoa(i)
		if !form.Has(prefix + ".Name") {
			return filters
		}
		filters = append(filters, Filter{form.Get(prefix + ".Name"), List(form, prefix+"."+values)})
	}
}

// Page returns at most size items after the marker, and the next marker, which is empty for the last page. A marker is the number
// of items before the page; ok is false for an invalid one.
func Page[T any](items []T, marker string, size int) (page []T, next string, ok bool) {
	start := 0
	if marker != "" {
		n, err := strconv.Atoi(marker)
		if err != nil || n < 0 || n > len(items) {
			return nil, "", false
		}
		start = n
	}
	end := min(start+size, len(items))
	if end < len(items) {
		next = strconv.Itoa(end)
	}
	return items[start:end], next, true
}

// MatchAnyWild reports whether text matches one of the patterns, in which * stands for any text and ? for any character. It is
// case-sensitive.
func MatchAnyWild(patterns []string, text string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return wild(p, text) })
}

func wild(pattern, text string) bool {
	for len(pattern) > 0 {
		switch {
		case pattern[0] == '*':
			for i := 0; i <= len(text); i++ {
				if wild(pattern[1:], text[i:]) {
					return true
				}
			}
			return false
		case text == "" || (pattern[0] != '?' && pattern[0] != text[0]):
			return false
		}
		pattern, text = pattern[1:], text[1:]
	}
	return text == ""
}
