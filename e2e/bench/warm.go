//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
)

const (
	warmRuns  = 200 // of each command: enough that the 99th percentile is not the longest
	warmLimit = 80 * time.Second
)

const greeting = "SSH-2.0-greeter\r\n"

// greet speaks first, as an SSH server does.
func greet(c net.Conn) {
	if _, err := io.WriteString(c, greeting); err == nil {
		_, _ = io.Copy(io.Discard, c) // until the client has gone
	}
}

// compareWarm measures the commands of a user whose agent has a link. It measures `bastion proxy` to its first byte, and `bastion
// forward -d` to its end.
func (b *bench) compareWarm(ctx context.Context, p peer, delay int) error {
	at := map[string]any{"delay_ms": delay}
	return b.try(ctx, p, "warm", "warm_proxy_p50", "ms", at, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, warmLimit)
		defer cancel()
		w := &warm{b: b, env: append(b.env(), "BASTION_NO_AGENT=false", "BASTION_QUIET=true")}
		defer func() { err = errors.Join(err, w.end()) }()
		kept, err := w.detach(ctx)
		if err != nil {
			return err
		}
		rounds, err := roundTrips(ctx, kept.Listen, b.span)
		if err != nil {
			return err
		}
		b.add(p, "warm_rtt", "ms", quantile(rounds, 0.5), at)
		for _, m := range []struct {
			metric string
			once   func(context.Context) (time.Duration, error)
		}{{"process", w.process}, {"warm_proxy", w.proxy}, {"warm_forward", w.forward}} {
			times := make([]time.Duration, warmRuns)
			for i := range times {
				if times[i], err = m.once(ctx); err != nil {
					return fmt.Errorf("%s, run %d: %w", m.metric, i, err)
				}
			}
			with := map[string]any{"delay_ms": delay, "runs": warmRuns}
			b.add(p, m.metric+"_p50", "ms", quantile(times, 0.5), with)
			b.add(p, m.metric+"_p99", "ms", quantile(times, 0.99), with)
		}
		return nil
	})
}

// warm is a user with an agent.
type warm struct {
	b   *bench
	env []string
}

func (w *warm) client() *api.Client {
	return api.NewClient(filepath.Join(w.b.dir, "run", "control.sock"))
}

// run runs bastion to its end and returns what it prints.
func (w *warm) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, w.b.bastion, args...)
	cmd.Env = append(os.Environ(), w.env...)
	var says strings.Builder
	cmd.Stderr = &says
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("bastion %s: %w\n%s", args[0], err, &says)
	}
	return string(out), nil
}

// detach opens a forward to the far end that stays.
func (w *warm) detach(ctx context.Context) (f api.Forward, err error) {
	out, err := w.run(ctx, "forward", "-d", "-o", "json", w.b.far.Addr(), ":")
	if err != nil {
		return f, err
	}
	var opened struct{ Forwards []api.Forward }
	if err := json.Unmarshal([]byte(out), &opened); err != nil || len(opened.Forwards) != 1 {
		return f, fmt.Errorf("%w in %q", err, out)
	}
	return opened.Forwards[0], nil
}

// process is a command that asks nobody: what the start of the program takes.
func (w *warm) process(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	_, err := w.run(ctx, "version")
	return time.Since(began), err
}

func (w *warm) proxy(ctx context.Context) (took time.Duration, err error) {
	host, port, err := net.SplitHostPort(w.b.greeter.Addr())
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, w.b.bastion, "proxy", host, port)
	cmd.Env = append(os.Environ(), w.env...)
	var says strings.Builder
	cmd.Stderr = &says
	conn, started, err := rig.Piped(cmd)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	began := time.Now()
	err = cmd.Start()
	started()
	if err != nil {
		return 0, err
	}
	first := make([]byte, len(greeting))
	_, err = io.ReadFull(conn, first)
	took = time.Since(began)
	if err = errors.Join(err, conn.CloseWrite(), cmd.Wait()); err != nil || string(first) != greeting {
		return 0, fmt.Errorf("%q: %w\n%s", first, err, &says)
	}
	return took, nil
}

// forward opens a forward of a new name, which ends when the time was taken.
func (w *warm) forward(ctx context.Context) (time.Duration, error) {
	name := "warm-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	began := time.Now()
	_, err := w.run(ctx, "forward", "-d", "--name", name, w.b.far.Addr(), ":")
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	_, err = w.client().Stop(ctx, name)
	return took, err
}

// end ends the agent, however the measuring has ended.
func (w *warm) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := w.run(ctx, "agent", "stop")
	return err
}
