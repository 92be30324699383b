package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
	"github.com/bastion-ssm/bastion/tunnel/rediscluster"
)

// ClusterMode says what a forward does about a Redis cluster behind it.
type ClusterMode string

// The modes.
const (
	ClusterOff       ClusterMode = ""          // it is a forward like any other
	ClusterFollow    ClusterMode = "follow"    // clients are led to the nodes
	ClusterTerminate ClusterMode = "terminate" // and the nodes are spoken to by TLS, which the clients do not speak
)

// ClusterModeOf returns what the settings say of an endpoint. Of hosts only the user knows what they are. It fails where the mode
// cannot be had.
func ClusterModeOf(s Settings, e targets.Endpoint) (ClusterMode, error) {
	switch {
	case !e.Cluster && e.Engine != "", s.RedisCluster == "off", s.Hosts:
		return ClusterOff, nil
	case s.RedisCluster == string(ClusterTerminate):
		_, err := databaseRoots(s.TLSCA)
		return ClusterTerminate, err
	case s.RedisCluster == string(ClusterFollow), e.Cluster && !e.TLS:
		return ClusterFollow, nil
	}
	return ClusterOff, nil
}

// Note says what a user should know of the mode.
func (m ClusterMode) Note() string {
	switch m {
	case ClusterFollow:
		return "clients are led to the nodes of the cluster, each of which has a local port"
	case ClusterTerminate:
		return "clients are led to the nodes of the cluster, each of which has a local port; they must speak without TLS here, " +
			"which bastion speaks with the nodes"
	}
	return ""
}

// ServeForward is tunnel.Forward, or the same for a Redis cluster.
func ServeForward(ctx context.Context, ln net.Listener, d tunnel.Dialer, dest string, mode ClusterMode, s Settings,
	cfg tunnel.ForwardConfig,
) error {
	if mode == ClusterOff {
		return tunnel.Forward(ctx, ln, d, dest, cfg)
	}
	cluster := rediscluster.Config{Forward: cfg}
	if mode == ClusterTerminate {
		roots, err := databaseRoots(s.TLSCA)
		if err != nil {
			return err
		}
		cluster.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	c, err := rediscluster.New(d, dest, cluster)
	if err != nil {
		return err
	}
	return c.Serve(ctx, ln)
}

// readText reads a file of text that the user has named.
func readText(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return files.Text(data)
}

// databaseRoots returns the certificates of tls_ca; nil, which is the system's, if it is not set.
func databaseRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := readText(path)
	if err == nil {
		roots := x509.NewCertPool()
		if roots.AppendCertsFromPEM(pem) {
			return roots, nil
		}
		err = errors.New("there is no certificate in it")
	}
	return nil, fail.New(fail.Usage, "read tls_ca "+path, err, "give a file of certificates in PEM form, such as RDS's global-bundle.pem")
}
