package awsanswer_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
)

// What keeps a call from AWS decides what to do.
func TestNextUnreached(t *testing.T) {
	for next, err := range map[string]error{
		"AWS_CA_BUNDLE":         &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
		"clock":                 x509.CertificateInvalidError{Reason: x509.Expired},
		"another host":          x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"},
		"does not speak TLS":    tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"},
		"the proxy cannot":      &net.OpError{Op: "proxyconnect", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"region's spelling":     &net.DNSError{Err: "no such host", Name: "sts.eu-wets-1", IsNotFound: true},
		"nothing listens there": &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"check the network":     errors.New("read: connection reset"),
	} {
		if got := awsanswer.NextUnreached(fmt.Errorf("call: %w", err)); !strings.Contains(got, next) {
			t.Errorf("%v: %q, want %q", err, got, next)
		}
	}
}
