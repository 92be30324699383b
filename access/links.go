package access

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/report"
)

// Each process with a link reports its state by HTTP on the socket <runtime_dir>/live/<process id>.sock: GET /v1/links returns
// a report.Process in JSON. Only the user has access to the directory, and a client must be a process of the same user.
const (
	liveDir     = "live"
	livePath    = "/v1/links"
	liveVersion = 1

	liveTimeout = 2 * time.Second // for one process's answer
	maxLive     = 4 << 20         // bytes of an answer
)

// links are an Access's links.
type links struct {
	serve   sync.Once // starts the watchers and the socket
	mu      sync.Mutex
	started time.Time
	shown   map[shownLink]struct{}
}

// shownLink is a link, or a stream that another program's SSH client uses.
type shownLink interface {
	live() []report.Link // the link's state
	probe()              // makes its sessions check whether they live
}

// addLink makes l one of the Access's links until the caller calls hide. The first link starts the watchers and the socket.
// Close ends them.
func (a *Access) addLink(l shownLink) (hide func()) {
	a.links.serve.Do(func() {
		wakes := make(chan struct{}, 1)
		a.tasks.Go(func() { a.watchCredentials(wakes) })
		a.tasks.Go(func() { a.watchWake(wakes) })
		a.links.mu.Lock()
		a.links.started = time.Now()
		a.links.mu.Unlock()
		if a.options.Hosted {
			return
		}
		if err := a.serveLinks(); err != nil {
			a.log.Debug("bastion status will not show the links of this process", "err", err)
		}
	})
	a.links.mu.Lock()
	defer a.links.mu.Unlock()
	if a.links.shown == nil {
		a.links.shown = make(map[shownLink]struct{})
	}
	a.links.shown[l] = struct{}{}
	return func() {
		a.links.mu.Lock()
		defer a.links.mu.Unlock()
		delete(a.links.shown, l)
	}
}

// probe makes all sessions check whether they live.
func (a *Access) probe() {
	a.bonds.probe()
	a.links.mu.Lock()
	defer a.links.mu.Unlock()
	for l := range a.links.shown {
		l.probe()
	}
}

func (a *Access) process() report.Process {
	a.links.mu.Lock()
	defer a.links.mu.Unlock()
	p := report.Process{
		V: liveVersion, PID: os.Getpid(), Command: a.options.Command, Version: a.options.Version, Region: a.region,
		Started: a.links.started, Links: []report.Link{},
	}
	for l := range a.links.shown {
		p.Links = append(p.Links, l.live()...)
	}
	slices.SortFunc(p.Links, func(x, y report.Link) int { return cmp.Or(cmp.Compare(x.Bastion, y.Bastion), x.Since.Compare(y.Since)) })
	return p
}

// Links returns the state of the Access's links.
func (a *Access) Links() []report.Link { return a.process().Links }

func (a *Access) serveLinks() error {
	dir, err := dirs.Runtime(a.settings.Local.RuntimeDir)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, liveDir)
	if err := files.PrivateDir(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, strconv.Itoa(os.Getpid())+private.Suffix)
	ln, err := private.Listen(path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+livePath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.process()) // the client may have gone
	})
	server := &http.Server{Handler: mux, ReadTimeout: liveTimeout, WriteTimeout: liveTimeout, IdleTimeout: liveTimeout}
	a.tasks.Go(func() { _ = server.Serve(ln) }) // it ends with ln
	a.tasks.Go(func() {
		<-a.ctx.Done()
		_ = server.Close()
	})
	return nil
}

// Processes returns the processes with links, the oldest first. It removes the sockets of processes that ended without doing
// so.
func Processes(ctx context.Context, s Settings) ([]report.Process, error) {
	out := []report.Process{}
	dir, err := dirs.Runtime(s.Local.RuntimeDir)
	if err != nil {
		return out, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, liveDir, "*"+private.Suffix))
	if err != nil {
		return out, fail.New(fail.Other, "look for links of running commands", err, "")
	}
	found := make([]*report.Process, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			p, err := askLinks(ctx, path)
			switch {
			case err == nil:
				found[i] = &p
			case private.Refused(err):
				_ = os.Remove(path)
			}
		})
	}
	wg.Wait()
	for _, p := range found {
		if p != nil {
			out = append(out, *p)
		}
	}
	slices.SortFunc(out, func(x, y report.Process) int { return cmp.Or(x.Started.Compare(y.Started), x.PID-y.PID) })
	return out, nil
}

// askLinks asks the process that listens on the socket at path.
func askLinks(ctx context.Context, path string) (report.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return private.DialSocket(path) }}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://bastion"+livePath, http.NoBody)
	if err != nil {
		return report.Process{}, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return report.Process{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	var p report.Process
	switch err := json.NewDecoder(io.LimitReader(resp.Body, maxLive)).Decode(&p); {
	case err != nil:
		return p, err
	case resp.StatusCode != http.StatusOK || p.V != liveVersion:
		return p, errors.New("not an answer of this version")
	}
	return p, nil
}
