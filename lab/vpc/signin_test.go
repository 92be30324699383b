package vpc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A user like RDS's IAM users signs in with a password that the lab checks, over TLS whose certificate is for the server's name.
// The owner signs in with its password.
func TestPostgresTLSAndTokens(t *testing.T) {
	authority, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Issue("orders.rds.test")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority.PEM()) {
		t.Fatal("no certificate")
	}
	token := strings.Repeat("a long token, ", 100)
	for _, mode := range modes(t, "postgres") {
		t.Run(string(mode), func(t *testing.T) {
			p := startPostgres(t, mode, func(cfg *PostgresConfig) {
				cfg.TLS, cfg.TokenUser = certificate, "iam"
				cfg.SignIn = func(user, password string) error {
					if user != "iam" || password != token {
						return errors.New("wrong token")
					}
					return nil
				}
			})
			if mode == Real && p.real.gate == nil {
				t.Fatal("the server of this machine cannot ask about tokens: it was built without LDAP")
			}
			try := func(user, password string, cfg *tls.Config) error {
				config, err := pgx.ParseConfig("sslmode=disable")
				if err != nil {
					t.Fatal(err)
				}
				config.Host, config.Port = p.Addr().Addr().String(), p.Addr().Port()
				config.User, config.Password, config.Database, config.TLSConfig = user, password, "orders", cfg
				conn, err := pgx.ConnectConfig(t.Context(), config)
				if err != nil {
					return err
				}
				defer conn.Close(t.Context())
				var n int
				return conn.QueryRow(t.Context(), "select count(*) from orders").Scan(&n)
			}
			verify := &tls.Config{RootCAs: roots, ServerName: "orders.rds.test", MinVersion: tls.VersionTLS12}
			for _, tt := range []struct {
				user, password string
				tls            *tls.Config
				ok             bool
			}{
				{"app", "lab's", verify, true},
				{"app", "lab's", nil, true},
				{"iam", token, verify, true},
				{"iam", "lab's", verify, false},
				{"iam", "", verify, false},
				{"app", token, verify, false},
			} {
				if err := try(tt.user, tt.password, tt.tls); (err == nil) != tt.ok {
					t.Errorf("user %s, password of %d bytes, TLS %v: %v", tt.user, len(tt.password), tt.tls != nil, err)
				}
			}
			wrong := verify.Clone()
			wrong.ServerName = "other.rds.test"
			if err := try("app", "lab's", wrong); !errors.As(err, new(x509.HostnameError)) {
				t.Errorf("another name: %v", err)
			}
			if err := try("iam", token, nil); mode == Real && err == nil {
				t.Error("a token was taken without TLS")
			}
		})
	}
}

// What speaks no LDAP, or asks for more than a simple bind, is hung up on.
func TestLDAPGateHostile(t *testing.T) {
	g, err := startLDAPGate(func(string, string) error { return nil }, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	})
	addr, err := g.addr()
	if err != nil {
		t.Fatal(err)
	}
	message := func(op byte, body []byte) []byte {
		return appendBER(nil, berSequence, appendBER([]byte{berInteger, 1, 1}, op, body))
	}
	for name, data := range map[string][]byte{
		"HTTP":          []byte("GET / HTTP/1.1\r\n\r\n"),
		"endless":       {berSequence, 0x80, 0, 0},
		"too long":      {berSequence, 0x84, 0xff, 0xff, 0xff, 0xff},
		"a search":      message(0x63, nil),
		"an empty bind": message(ldapBind, nil),
		"SASL":          message(ldapBind, []byte{berInteger, 1, 3, berOctets, 0, 0xa3, 0}),
		"another name":  message(ldapBind, []byte{berInteger, 1, 3, berOctets, 1, 'x', ldapSimple, 0}),
	} {
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s was answered", name)
		}
		_ = c.Close()
	}
}
