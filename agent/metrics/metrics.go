// Package metrics serves the agent's metrics, in Prometheus's formats, and its health to a monitoring system.
package metrics

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// The paths of the metrics and of the health checks.
const (
	PathMetrics = "/metrics"
	PathLive    = "/livez"
	PathReady   = "/readyz"
)

const (
	scrapesAtOnce = 4
	scrapeTimeout = 10 * time.Second
)

// Handler serves PathMetrics, PathLive and PathReady from the state that state returns.
//
// With a token, /metrics requires it as a bearer token; use one on a loopback address, which other users can reach. Without a
// token, serve the handler only where other users have no access, such as on the agent's socket. The health checks answer only
// yes or no.
func Handler(state func() api.State, token string) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		&collector{state},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	metrics := promhttp.HandlerFor(
		registry,
		promhttp.HandlerOpts{MaxRequestsInFlight: scrapesAtOnce, Timeout: scrapeTimeout},
	)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PathMetrics, func(w http.ResponseWriter, r *http.Request) {
		if token != "" && !hasToken(r, token) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="bastion"`)
			http.Error(w, "the bearer token of metrics_token_file is needed", http.StatusUnauthorized)
			return
		}
		metrics.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET "+PathLive, func(w http.ResponseWriter, _ *http.Request) { health(w, true) })
	mux.HandleFunc("GET "+PathReady, func(w http.ResponseWriter, _ *http.Request) { health(w, isReady(state())) })
	return mux
}

func hasToken(r *http.Request, token string) bool {
	scheme, given, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return ok && strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare([]byte(given), []byte(token)) == 1
}

func health(w http.ResponseWriter, good bool) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if good {
		_, _ = io.WriteString(w, "ok\n")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, "not ready\n")
}

// isReady reports whether every forward serves.
func isReady(state api.State) bool {
	return !slices.ContainsFunc(state.Forwards, func(f api.Forward) bool { return f.State != api.ForwardReady })
}

// LocalOnly protects a Handler on a loopback address. It refuses requests for another Host than addr, the listener's address,
// and requests from web pages.
func LocalOnly(addr string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if site := r.Header.Get("Sec-Fetch-Site"); r.Host != addr || r.Header.Get("Origin") != "" || site != "" && site != "none" {
			http.Error(w, "this is at "+addr+" and not for web pages", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ReadToken reads the metrics' bearer token from a file. It fails if users outside the file's group have access.
func ReadToken(path string) (string, error) {
	const (
		least = 16
		most  = 4096
	)
	op := "read the metrics' token from " + path
	const next = "make one: (umask 077; openssl rand -hex 32 > FILE)"
	f, err := os.Open(path)
	if err != nil {
		return "", fail.New(fail.Usage, op, err, next)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", fail.New(fail.Usage, op, err, next)
	}
	if mode := info.Mode(); runtime.GOOS != "windows" && mode.IsRegular() && mode.Perm()&0o007 != 0 {
		return "", fail.New(fail.Usage, op, fmt.Errorf("other users have access (mode %#o)", mode.Perm()), "chmod 600 "+path)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", fail.New(fail.Usage, op, err, next)
	}
	text, err := files.Text(data)
	if err != nil {
		return "", fail.New(fail.Usage, op, err, next)
	}
	token := strings.TrimSpace(string(text))
	if len(token) < least || len(data) > most || strings.ContainsAny(token, " \t\r\n") {
		return "", fail.New(fail.Usage, op, errors.New("it is not one word of at least 16 characters"), next)
	}
	return token, nil
}

// descs are the descriptions of all metrics.
var descs []*prometheus.Desc

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("bastion_"+name, help, labels, nil)
	descs = append(descs, d)
	return d
}

// Sessions change all day, so they are not a label. Each link sums its sessions.
var (
	descInfo  = describe("agent_info", "The agent's version, with the value 1.", "version")
	descStart = describe("agent_start_time_seconds", "When the agent started, in seconds since the epoch.")

	descLinkUp         = describe("link_up", "Whether the link to a bastion is up and has a path.", "link", "region", "cluster")
	descLinkChannels   = describe("link_channels", "Connections through the link.", "link")
	descLinkSent       = describe("link_sent_bytes_total", "Bytes sent on the link's present SSH connection.", "link")
	descLinkReceived   = describe("link_received_bytes_total", "Bytes received on the link's present SSH connection.", "link")
	descLinkReinjected = describe("link_reinjected_bytes_total",
		"Bytes that another session sent again, on the link's present SSH connection.", "link")
	descLinkSessions = describe("link_sessions", "SSM sessions of the link by state.", "link", "state")
	descLinkRTT      = describe("link_rtt_seconds", "Smoothed round trip of the link's fastest session.", "link")
	descLinkInFlight = describe("link_in_flight_bytes",
		"Bytes that the link's sessions have sent and that are not acknowledged.", "link")

	descForwardReady  = describe("forward_ready", "Whether the forward serves.", "forward", "kind")
	descForwardActive = describe("forward_connections", "Connections of the forward now.", "forward")
	descForwardTotal  = describe("forward_connections_total", "Connections of the forward so far.", "forward")
	descForwardFailed = describe("forward_failed_connections_total",
		"Connections that the bastion refused or that could not be opened.", "forward")
	descForwardBytes = describe("forward_bytes_total",
		"Bytes of the forward's connections: up is from the clients, down is to them.", "forward", "direction")
)

// sessionStates are all states of a session.
var sessionStates = []string{"up", "stalled", "leaving"}

// collector derives the metrics from the agent's state at each scrape.
type collector struct{ state func() api.State }

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	state := c.state()
	gauge(descInfo, 1, state.Version)
	gauge(descStart, float64(state.Started.UnixMilli())/1000)
	for _, l := range state.Links {
		sum := sumUp(l)
		gauge(descLinkUp, truth(sum.isUp), l.ID, l.Region, l.Cluster)
		gauge(descLinkChannels, float64(sum.channels), l.ID)
		gauge(descLinkInFlight, float64(sum.inFlight), l.ID)
		counter(descLinkSent, float64(sum.sent), l.ID)
		counter(descLinkReceived, float64(sum.received), l.ID)
		counter(descLinkReinjected, float64(sum.reinjected), l.ID)
		for _, s := range sessionStates {
			gauge(descLinkSessions, float64(sum.sessions[s]), l.ID, s)
		}
		if sum.rtt > 0 {
			gauge(descLinkRTT, sum.rtt/1000, l.ID)
		}
	}
	for _, f := range state.Forwards {
		gauge(descForwardReady, truth(f.State == api.ForwardReady), f.Reference(), string(f.Kind))
		gauge(descForwardActive, float64(f.Stats.Active), f.Reference())
		counter(descForwardTotal, float64(f.Stats.Total), f.Reference())
		counter(descForwardFailed, float64(f.Stats.Failed), f.Reference())
		counter(descForwardBytes, float64(f.Stats.BytesUp), f.Reference(), "up")
		counter(descForwardBytes, float64(f.Stats.BytesDown), f.Reference(), "down")
	}
}

// linkSum sums a link's figures over all its connections.
type linkSum struct {
	isUp                       bool
	channels, inFlight         int
	sent, received, reinjected uint64
	sessions                   map[string]int
	rtt                        float64 // milliseconds; 0: not measured
}

func sumUp(l api.Link) linkSum {
	sum := linkSum{sessions: make(map[string]int, len(sessionStates))}
	for _, live := range l.Live {
		sum.isUp = sum.isUp || live.State == "up"
		sum.channels += live.Channels
		sum.sent += live.Sent
		sum.received += live.Received
		sum.reinjected += live.Reinjected
		for _, s := range live.Sessions {
			sum.sessions[s.State]++
			sum.inFlight += s.InFlight
			if s.RTT > 0 && (sum.rtt == 0 || s.RTT < sum.rtt) {
				sum.rtt = s.RTT
			}
		}
	}
	return sum
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
