package browser

import "testing"

func TestPageOf(t *testing.T) {
	for _, tt := range []struct {
		host   string
		port   int
		secure bool
		path   string
		want   string
	}{
		{"wiki.corp.internal", 443, false, "", "https://wiki.corp.internal/"},
		{"wiki.corp.internal", 80, false, "", "http://wiki.corp.internal/"},
		{"wiki.corp.internal", 8080, false, "/a?b=c#d", "http://wiki.corp.internal:8080/a?b=c#d"},
		{"wiki.corp.internal", 8443, false, "a", "https://wiki.corp.internal:8443/a"},
		{"search.example", 9200, true, "_dashboards/", "https://search.example:9200/_dashboards/"},
		{"search.example", 80, true, "", "https://search.example:80/"},
		{"10.0.3.4", 443, false, "", "https://10.0.3.4/"},
		{"2001:db8::7", 443, false, "", "https://[2001:db8::7]/"},
		{"2001:db8::7", 8080, false, "", "http://[2001:db8::7]:8080/"},
		{"wiki.corp.internal", 80, false, "//evil.example/", "http://wiki.corp.internal/evil.example/"},
		{"wiki.corp.internal", 80, false, "%zz", "http://wiki.corp.internal/%25zz"},
	} {
		if got := PageOf(tt.host, tt.port, tt.secure, tt.path); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt, got, tt.want)
		}
	}
}
