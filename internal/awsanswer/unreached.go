package awsanswer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"syscall"
)

// NextUnreached returns the user's next step after a call that AWS did not answer.
func NextUnreached(err error) string {
	for _, u := range unreached {
		if u.is(err) {
			return u.next
		}
	}
	return "check the network and the AWS endpoint, then try again"
}

// unreached are the failures of a call on its way; the first match counts.
var unreached = []struct {
	is   func(error) bool
	next string
}{
	{
		func(err error) bool { return is[x509.UnknownAuthorityError](err) },
		"set AWS_CA_BUNDLE to a file with your company's CA certificates: a proxy or a firewall seems to put its own certificate in " +
			"place of AWS's",
	},
	{
		func(err error) bool {
			invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
			return ok && invalid.Reason == x509.Expired
		},
		"set this machine's clock, or see who answers in AWS's place: the certificate is not valid now",
	},
	{
		func(err error) bool { return is[x509.HostnameError](err) },
		"check AWS_ENDPOINT_URL, HTTPS_PROXY and DNS: another host answers in AWS's place",
	},
	{
		func(err error) bool { return is[tls.RecordHeaderError](err) },
		"check AWS_ENDPOINT_URL and HTTPS_PROXY: the server there does not speak TLS",
	},
	{
		func(err error) bool {
			op, ok := errors.AsType[*net.OpError](err)
			return ok && op.Op == "proxyconnect" || strings.Contains(err.Error(), "proxyconnect ")
		},
		"check HTTPS_PROXY and NO_PROXY: the proxy cannot be reached",
	},
	{
		func(err error) bool {
			dns, ok := errors.AsType[*net.DNSError](err)
			return ok && dns.IsNotFound
		},
		"check the region's spelling (--region), the VPN and DNS: AWS's host is not known",
	},
	{
		func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) },
		"check that address and what names it (such as AWS_ENDPOINT_URL): nothing listens there",
	},
}

func is[E error](err error) bool { return errors.As(err, new(E)) }
