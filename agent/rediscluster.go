package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
	"github.com/bastion-ssm/bastion/tunnel/rediscluster"
)

// clusterModeOf returns the mode for an endpoint by the settings. For a host, only the user knows whether it is a cluster. It
// fails if the mode needs a CA bundle that cannot be read.
func clusterModeOf(s config.Settings, e targets.Endpoint) (forwards.ClusterMode, error) {
	switch {
	case !e.Cluster && e.Engine != "", s.Forward.RedisCluster == "off", s.Forward.Hosts:
		return forwards.ClusterOff, nil
	case s.Forward.RedisCluster == string(forwards.ClusterTerminate):
		_, err := databaseRoots(s.Forward.TLSCA)
		return forwards.ClusterTerminate, err
	case s.Forward.RedisCluster == string(forwards.ClusterFollow), e.Cluster && !e.TLS:
		return forwards.ClusterFollow, nil
	}
	return forwards.ClusterOff, nil
}

// serveForward is tunnel.Forward, or its counterpart for a Redis cluster.
func serveForward(ctx context.Context, ln net.Listener, d tunnel.Dialer, dest string, mode forwards.ClusterMode, s config.Settings,
	cfg tunnel.ForwardConfig,
) error {
	if mode == forwards.ClusterOff {
		return tunnel.Forward(ctx, ln, d, dest, cfg)
	}
	cluster := rediscluster.Config{Forward: cfg}
	if mode == forwards.ClusterTerminate {
		roots, err := databaseRoots(s.Forward.TLSCA)
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

// databaseRoots returns the CA bundle of tls_ca; nil (the system's) if the setting is empty.
func databaseRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := files.ReadText(path)
	if err == nil {
		roots := x509.NewCertPool()
		if roots.AppendCertsFromPEM(pem) {
			return roots, nil
		}
		err = errors.New("it contains no certificate")
	}
	return nil, fail.New(fail.Usage, "read tls_ca "+path, err, "give a file of certificates in PEM form, such as RDS's global-bundle.pem")
}
