package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/dashboard"
	"github.com/bastion-ssm/bastion/agent/metrics"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// page is the Daemon's dashboard, which is served from when it is first asked for.
type page struct {
	mu     sync.Mutex
	server *dashboard.Server // nil: nobody has asked
	closed bool
}

// serveDashboard makes a link to the dashboard.
func (d *Daemon) serveDashboard(w http.ResponseWriter, r *http.Request) {
	var req api.DashboardRequest
	if !read(w, r, &req) {
		return
	}
	server, err := d.dashboard(r.Context(), req.Listen)
	if err != nil {
		refuseBy(w, err)
		return
	}
	link, err := server.Link(req)
	if err != nil {
		refuseBy(w, err)
		return
	}
	answer(w, link)
}

// dashboard returns the dashboard. addr counts if it is not served yet.
func (d *Daemon) dashboard(ctx context.Context, addr string) (*dashboard.Server, error) {
	d.page.mu.Lock()
	defer d.page.mu.Unlock()
	switch {
	case d.page.closed:
		return nil, fail.New(
			fail.Other,
			"serve the dashboard",
			errShutdown,
			"try again: the next command starts the agent anew",
		)
	case d.page.server != nil:
		return d.page.server, nil
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := dashboard.Listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	d.page.server = dashboard.New(d, ln, dashboard.Options{Logger: d.log, Dir: filepath.Dir(d.cfg.Socket)})
	d.log.Info("the dashboard is served", "address", ln.Addr().String())
	return d.page.server, nil
}

// close ends the dashboard. There will be no other.
func (p *page) close() {
	p.mu.Lock()
	server := p.server
	p.server, p.closed = nil, true
	p.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

// serveMetrics serves the metrics on a loopback address until the function that it returns is called.
func (d *Daemon) serveMetrics(ctx context.Context) (stop func(), err error) {
	if d.cfg.MetricsListen == "" {
		return func() {}, nil
	}
	token, err := metrics.ReadToken(d.cfg.MetricsToken)
	if err != nil {
		return nil, err
	}
	ln, err := dashboard.Listen(ctx, d.cfg.MetricsListen)
	if err != nil {
		return nil, fail.New(fail.KindOf(err), "serve the metrics", err, "set another metrics_listen")
	}
	server := &http.Server{
		Handler:           metrics.LocalOnly(ln.Addr().String(), metrics.Handler(d.State, token)),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: writeTimeout,
		MaxHeaderBytes: maxMetricsHeader, ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	var served sync.WaitGroup
	served.Go(func() {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("the metrics are not served any more", "err", err)
		}
	})
	d.log.Info("the metrics are served", "address", ln.Addr().String())
	return func() {
		_ = server.Close()
		served.Wait()
	}, nil
}

const maxMetricsHeader = 16 << 10 // bytes
