package server

import (
	"fmt"
	"strings"
	"testing"
)

func TestNameservers(t *testing.T) {
	const text = `# nameserver 10.0.0.9
search eu-central-1.compute.internal
nameserver 10.0.0.2
	nameserver   fd00:ec2::253
nameserver fe80::1%eth0
nameserver
nameserver dns.example
nameserver ::ffff:10.0.0.3
options timeout:2`
	if got, want := fmt.Sprint(nameservers(strings.NewReader(text))),
		"[10.0.0.2 fd00:ec2::253 fe80::1 10.0.0.3]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if n := len(nameservers(strings.NewReader(strings.Repeat("nameserver 10.0.0.2\n", 1000)))); n != maxNameservers {
		t.Errorf("%d servers", n)
	}
}
