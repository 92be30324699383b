package doctor

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// gateway is the service of Session Manager's websockets. The SDK has no client for it.
const gateway = "ssmmessages"

// endpoints returns the endpoints that the program's calls go to, by the SDK's own rules, and the message gateway's.
func (g *gatherer) endpoints(ctx context.Context) map[string]*url.URL {
	region, out := g.cfg.Region, make(map[string]*url.URL)
	add := func(service, variable string, resolve func() (url.URL, error)) {
		if own := awssdk.Endpoint(variable); own != "" {
			if u, err := url.Parse(own); err == nil {
				out[service] = u
				return
			}
		}
		if u, err := resolve(); err == nil && u.Host != "" {
			out[service] = &u
		}
	}
	add("sts", "STS", func() (url.URL, error) {
		e, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, sts.EndpointParameters{Region: &region})
		return e.URI, err
	})
	add("ecs", "ECS", func() (url.URL, error) {
		e, err := ecs.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, ecs.EndpointParameters{Region: &region})
		return e.URI, err
	})
	add("ssm", "SSM", func() (url.URL, error) {
		e, err := ssm.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, ssm.EndpointParameters{Region: &region})
		return e.URI, err
	})
	add("ec2", "EC2", func() (url.URL, error) {
		e, err := ec2.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, ec2.EndpointParameters{Region: &region})
		return e.URI, err
	})
	add("rds", "RDS", func() (url.URL, error) {
		e, err := rds.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, rds.EndpointParameters{Region: &region})
		return e.URI, err
	})
	add(gateway, "SSMMESSAGES", func() (url.URL, error) {
		return url.URL{Scheme: "https", Host: partition.Of(region).Endpoint(gateway, region)}, nil
	})
	return out
}

// services is the order of the endpoints in a report.
var services = []string{"sts", "ecs", "ssm", gateway, "ec2", "rds"}

// network goes to each endpoint, step by step.
func (g *gatherer) network(ctx context.Context) {
	all := g.endpoints(ctx)
	transport, ok := awssdk.WebsocketClient(g.cfg).Transport.(*http.Transport)
	if !ok {
		return
	}
	reached := make([]Reached, len(services))
	var steps []func()
	for i, service := range services {
		if u := all[service]; u != nil {
			steps = append(steps, func() { reached[i] = reach(ctx, transport, service, u) })
		}
	}
	together(steps...)
	for _, r := range reached {
		if r.Service != "" {
			g.facts.Reaches = append(g.facts.Reaches, r)
		}
	}
}

// reach goes to one endpoint: name, connection, proxy, TLS, and the websocket's request.
func reach(ctx context.Context, transport *http.Transport, service string, u *url.URL) (r Reached) {
	host, port := u.Hostname(), cmp.Or(u.Port(), map[bool]string{true: "443", false: "80"}[u.Scheme == "https"])
	r = Reached{Service: service, Host: net.JoinHostPort(host, port), Secure: u.Scheme == "https"}
	var proxy *url.URL
	if transport.Proxy != nil {
		proxy, r.ProxyErr = transport.Proxy(&http.Request{URL: u})
	}
	if r.ProxyErr != nil {
		return r
	}
	name, to := host, r.Host
	if proxy != nil {
		r.Proxy = net.JoinHostPort(proxy.Hostname(), cmp.Or(proxy.Port(), map[string]string{"https": "443", "socks5": "1080"}[proxy.Scheme],
			"80"))
		name, to = proxy.Hostname(), r.Proxy
		if proxy.Scheme == "socks5" || proxy.Scheme == "socks5h" {
			return r // its steps are not the doctor's to take; AWS's calls show whether it works
		}
	}
	conn, err := r.connect(ctx, name, to)
	if err != nil {
		if proxy != nil {
			r.ProxyErr, r.DNSErr, r.TCPErr = err, nil, nil
		}
		return r
	}
	defer func() { _ = conn.Close() }()
	if proxy != nil {
		if conn, r.ProxyErr = throughProxy(ctx, conn, proxy, r.Host, transport.TLSClientConfig); r.ProxyErr != nil {
			return r
		}
	}
	if r.Secure {
		if conn, err = r.secure(ctx, conn, host, transport.TLSClientConfig); err != nil {
			return r
		}
	}
	if service == gateway {
		r.upgrade(ctx, conn, host)
	}
	return r
}

// connect resolves a name and connects to one of its addresses.
func (r *Reached) connect(ctx context.Context, name, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	from := time.Now()
	if _, r.DNSErr = net.DefaultResolver.LookupHost(ctx, name); r.DNSErr != nil {
		return nil, r.DNSErr
	}
	r.DNS, from = time.Since(from), time.Now()
	var conn net.Conn
	conn, r.TCPErr = new(net.Dialer).DialContext(ctx, "tcp", to)
	r.TCP = time.Since(from)
	return conn, r.TCPErr
}

// proxyRefusal is a proxy's answer to CONNECT.
type proxyRefusal struct{ status int }

func (e *proxyRefusal) Error() string { return fmt.Sprintf("the proxy answers HTTP %d", e.status) }

// throughProxy asks a proxy to connect to host.
func throughProxy(ctx context.Context, conn net.Conn, proxy *url.URL, host string, trust *tls.Config) (net.Conn, error) {
	_ = conn.SetDeadline(time.Now().Add(stepLimit)) // fails with the connection
	defer func() { _ = conn.SetDeadline(time.Time{}) }()
	if proxy.Scheme == "https" {
		secure := tls.Client(conn, trusting(trust, proxy.Hostname()))
		if err := secure.HandshakeContext(ctx); err != nil {
			return conn, err
		}
		conn = secure
	}
	request := "CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\n"
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+password)) + "\r\n"
	}
	if _, err := conn.Write([]byte(request + "\r\n")); err != nil {
		return conn, err
	}
	answer, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return conn, fmt.Errorf("read the proxy's answer: %w", err)
	}
	_ = answer.Body.Close() // of CONNECT: the connection stays
	if answer.StatusCode/100 != 2 {
		return conn, &proxyRefusal{answer.StatusCode}
	}
	return conn, nil
}

func trusting(trust *tls.Config, name string) *tls.Config {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if trust != nil {
		out = trust.Clone()
	}
	out.ServerName, out.NextProtos = name, nil
	return out
}

// secure makes a TLS connection. It notes who has issued a certificate that is not trusted.
func (r *Reached) secure(ctx context.Context, conn net.Conn, host string, trust *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	from := time.Now()
	secure := tls.Client(conn, trusting(trust, host))
	r.TLSErr = secure.HandshakeContext(ctx)
	r.TLS = time.Since(from)
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](r.TLSErr); ok && unknown.Cert != nil {
		r.Issuer = printable.Line(cmp.Or(unknown.Cert.Issuer.CommonName, unknown.Cert.Issuer.String(), "nobody"))
	}
	return secure, r.TLSErr
}

// upgrade sends the request of a websocket that no session belongs to.
func (r *Reached) upgrade(ctx context.Context, conn net.Conn, host string) {
	r.Upgrade = true
	until := time.Now().Add(stepLimit)
	if end, ok := ctx.Deadline(); ok && end.Before(until) {
		until = end
	}
	_ = conn.SetDeadline(until) // fails with the connection
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	_, err := fmt.Fprintf(conn, "GET /v1/data-channel/doctor?role=publish_subscribe HTTP/1.1\r\nHost: %s\r\nConnection: "+
		"Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZG9jdG9yZG9jdG9yZG9jdA==\r\n\r\n", host)
	if err != nil {
		r.UpgradeErr = err
		return
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.UpgradeErr = err
		return
	}
	_ = answer.Body.Close()
	r.Status, r.At = answer.StatusCode, time.Now()
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		r.Date = date
	}
}

// show is the way for the report.
func (r Reached) show() Reach {
	out := Reach{
		Service: r.Service, Host: r.Host, Proxy: r.Proxy, DNS: milliseconds(r.DNS), TCP: milliseconds(r.TCP),
		TLS: milliseconds(r.TLS),
	}
	if err := cmp.Or(r.ProxyErr, r.DNSErr, r.TCPErr, r.TLSErr, r.UpgradeErr); err != nil {
		out.Error = plain(err)
	}
	return out
}
