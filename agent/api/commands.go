package api

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

// A command that has a link without the agent serves one call of this API on the socket <runtime_dir>/live/<process id>.sock:
// GET /v1/links answers a report.Process of version LinksVersion.
const (
	LinksVersion = 1

	linksDir  = "live"
	linksPath = "/v1/links"

	linksTimeout = 2 * time.Second // for the answer of one command
)

// ServeLinks shows the links of this process until stop is called, which waits for the end of what it serves.
func ServeLinks(runtimeDir string, process func() report.Process) (stop func(), err error) {
	dir, err := dirs.Runtime(runtimeDir)
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, linksDir)
	if err := files.PrivateDir(dir); err != nil {
		return nil, err
	}
	ln, err := private.Listen(filepath.Join(dir, strconv.Itoa(os.Getpid())+private.Suffix))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+linksPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(process()) // the client may have gone
	})
	server := &http.Server{Handler: mux, ReadTimeout: linksTimeout, WriteTimeout: linksTimeout, IdleTimeout: linksTimeout}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) }) // it ends when ln does
	return func() {
		_ = server.Close()
		serving.Wait()
	}, nil
}

// Commands returns the running commands that show links of their own, the oldest first, and removes the sockets of those that ended
// without doing so.
func Commands(ctx context.Context, runtimeDir string) ([]report.Process, error) {
	out := []report.Process{}
	dir, err := dirs.Runtime(runtimeDir)
	if err != nil {
		return out, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, linksDir, "*"+private.Suffix))
	if err != nil {
		return out, fail.New(fail.Other, "look for links of running commands", err, "")
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, path := range paths {
		wg.Go(func() {
			p, err := askLinks(ctx, path)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				out = append(out, p)
			case private.Refused(err):
				_ = os.Remove(path)
			}
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(x, y report.Process) int { return cmp.Or(x.Started.Compare(y.Started), x.PID-y.PID) })
	return out, nil
}

// askLinks asks the command whose socket is at path.
func askLinks(ctx context.Context, path string) (report.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, linksTimeout)
	defer cancel()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return private.DialSocket(path) }}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://bastion"+linksPath, http.NoBody)
	if err != nil {
		return report.Process{}, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return report.Process{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	var p report.Process
	switch err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&p); {
	case err != nil:
		return p, err
	case resp.StatusCode != http.StatusOK || p.V != LinksVersion:
		return p, errors.New("not an answer of this version")
	}
	return p, nil
}
