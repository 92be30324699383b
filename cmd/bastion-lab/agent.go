package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/bastion-ssm/bastion/lab"
)

const (
	// agentEnd bounds the wait for the agent to end.
	agentEnd = 20 * time.Second
	// agentPoll is the pause between two looks.
	agentPoll = 50 * time.Millisecond
)

// agentEnv are the variables that give a lab an agent of its own: the user's real one should know nothing of a made-up account. Who
// has said where the agent's files are has an agent of their own.
func agentEnv(l *lab.Lab) []string {
	if os.Getenv("BASTION_RUNTIME_DIR") != "" {
		return nil
	}
	return []string{"BASTION_RUNTIME_DIR=" + l.RuntimeDir(), "BASTION_STATE_DIR=" + l.StateDir()}
}

// stopAgent ends the lab's agent, which commands may have started, and waits until it has ended its sessions.
func stopAgent(l *lab.Lab) error {
	socket := filepath.Join(l.RuntimeDir(), "control.sock")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	ctx, cancel := context.WithTimeout(context.Background(), agentEnd)
	defer cancel()
	if conn, err := dial(ctx, "", ""); err != nil {
		if !errors.Is(err, fs.ErrNotExist) && ctx.Err() != nil {
			return fmt.Errorf("stop the lab's agent: %w", err)
		}
		return nil // there is none
	} else if err := conn.Close(); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/v1/agent/stop", http.NoBody)
	if err != nil {
		return err
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("stop the lab's agent: %w", err)
	}
	_ = resp.Body.Close()
	tick := time.NewTicker(agentPoll)
	defer tick.Stop()
	for {
		conn, err := dial(ctx, "", "")
		if err != nil {
			return nil
		}
		_ = conn.Close()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("stop the lab's agent: it still runs after %s", agentEnd)
		}
	}
}
