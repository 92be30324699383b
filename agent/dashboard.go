package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/dashboard"
	"github.com/bastion-ssm/bastion/agent/metrics"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// page is the Agent's dashboard. The first request for it starts its server.
type page struct {
	mu     sync.Mutex
	server *dashboard.Server // nil: not requested yet
	closed bool
}

// serveDashboard answers with a one-time link to the dashboard.
func (a *Agent) serveDashboard(w http.ResponseWriter, r *http.Request) {
	var req api.DashboardRequest
	if !read(w, r, &req) {
		return
	}
	server, err := a.dashboard(r.Context(), req.Listen)
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

// dashboard returns the dashboard's server and starts it if needed. addr applies only to the start.
func (a *Agent) dashboard(ctx context.Context, addr string) (*dashboard.Server, error) {
	a.page.mu.Lock()
	defer a.page.mu.Unlock()
	switch {
	case a.page.closed:
		return nil, fail.New(fail.Other, "serve the dashboard", errShutdown, "try again: the next command starts the agent anew")
	case a.page.server != nil:
		return a.page.server, nil
	}
	ln, err := dashboard.Listen(ctx, cmp.Or(addr, "127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	files.Sweep(filepath.Dir(a.cfg.Socket), files.Before(time.Now()), dashboard.PagePrefix) // of an agent that was killed
	a.page.server = dashboard.New(a, ln, dashboard.Options{Logger: a.log, Dir: filepath.Dir(a.cfg.Socket)})
	a.log.Info("the dashboard is served", "address", ln.Addr().String())
	return a.page.server, nil
}

// close ends the dashboard for good.
func (p *page) close() {
	p.mu.Lock()
	server := p.server
	p.server, p.closed = nil, true
	p.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

// serveMetrics serves the metrics on a loopback address until the caller calls stop.
func (a *Agent) serveMetrics(ctx context.Context) (stop func(), err error) {
	if !a.cfg.MetricsListen.IsValid() {
		return func() {}, nil
	}
	token, err := metrics.ReadToken(a.cfg.MetricsToken)
	if err != nil {
		return nil, err
	}
	ln, err := dashboard.Listen(ctx, a.cfg.MetricsListen.String())
	if err != nil {
		return nil, fail.New(fail.KindOf(err), "serve the metrics", err, "set another metrics_listen")
	}
	server := &http.Server{
		Handler:           metrics.LocalOnly(ln.Addr().String(), metrics.Handler(a.State, token)),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: writeTimeout,
		MaxHeaderBytes: maxMetricsHeader, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	var served sync.WaitGroup
	served.Go(func() {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("cannot serve the metrics", "err", err)
		}
	})
	a.log.Info("the metrics are served", "address", ln.Addr().String())
	return func() {
		_ = server.Close()
		served.Wait()
	}, nil
}

const maxMetricsHeader = 16 << 10 // bytes
