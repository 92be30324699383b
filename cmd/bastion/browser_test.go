package main

import (
	"slices"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestBrowserArgs(t *testing.T) {
	for _, tc := range []struct {
		args    []string
		page    string
		options []string
	}{
		{nil, "", nil},
		{[]string{"https://wiki.corp.internal/a?b=c#d"}, "https://wiki.corp.internal/a?b=c#d", nil},
		{[]string{"wiki.corp.internal:8080"}, "http://wiki.corp.internal:8080", nil},
		{[]string{"--incognito", "x"}, "", []string{"--incognito", "x"}},
		{[]string{"wiki", "--screenshot", "x"}, "http://wiki", []string{"--screenshot", "x"}},
	} {
		page, options, err := browserArgs(tc.args)
		if err != nil || page != tc.page || !slices.Equal(options, tc.options) {
			t.Errorf("%q: %q, %q, %v", tc.args, page, options, err)
		}
	}
	for _, args := range [][]string{
		{"file:///etc/passwd"}, {"javascript://alert"}, {"ftp://wiki/"}, {"http://"}, {"http://a b/"}, {"one", "two"}, {""},
	} {
		if _, _, err := browserArgs(args); fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("%q: %v", args, err)
		}
	}
}
