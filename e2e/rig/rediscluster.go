package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// redisSlots is how many hash slots a Redis cluster has.
const redisSlots = 16384

// RedisClusterConfig is a cluster of redis-server processes.
type RedisClusterConfig struct {
	Dir     string             // for the nodes' files
	Prefix  []string           // what starts programs where the nodes run: "ip", "netns", "exec", NAME
	Hosts   []string           // a node's address each, the masters' first
	Port    int                // of all; 0: free ones, if the addresses are loopback
	Masters int                // the other nodes are their replicas in turn
	TLS     *RedisTLS          // nil: none
	Args    func(int) []string // more arguments of a node; may be nil
}

// RedisTLS has the files of a key pair that is the nodes' as servers and as clients of each other. They listen for TLS on a
// port of their own, and name that one to clients that speak TLS.
type RedisTLS struct{ Cert, Key, CA string }

// RedisNode is a node of a cluster.
type RedisNode struct {
	Host          string
	Port, TLSPort int
	ID            string
	proc          *Proc
}

// PeerPort is the port by which other nodes reach the node.
func (n RedisNode) PeerPort() int {
	if n.TLSPort != 0 {
		return n.TLSPort
	}
	return n.Port
}

// RedisCluster is a running cluster.
type RedisCluster struct {
	Nodes  []RedisNode
	cli    string
	prefix []string
}

// StartRedisCluster starts the nodes, and returns once all of them say that the cluster is well. End it by Close.
func StartRedisCluster(ctx context.Context, cfg RedisClusterConfig) (_ *RedisCluster, err error) {
	server, err := Find("redis-server")
	if err != nil {
		return nil, err
	}
	c := &RedisCluster{prefix: cfg.Prefix}
	if c.cli, err = Find("redis-cli"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	for i := range cfg.Hosts {
		const tries = 3 // a port can be taken between its choice and its use
		for try := 1; ; try++ {
			if err = c.startNode(ctx, cfg, server, i); err == nil {
				break
			}
			if try == tries || cfg.Port != 0 {
				return nil, err
			}
		}
	}
	err = c.join(ctx, cfg.Masters)
	return c, err
}

func (c *RedisCluster) startNode(ctx context.Context, cfg RedisClusterConfig, server string, i int) error {
	n := RedisNode{Host: cfg.Hosts[i], Port: cfg.Port}
	bus := cfg.Port + 10000
	ports := []*int{&n.Port, &bus}
	if cfg.TLS != nil {
		n.TLSPort = cfg.Port + 1
		ports = append(ports, &n.TLSPort)
	}
	if cfg.Port == 0 {
		for _, p := range ports {
			var err error
			if *p, err = FreePort(); err != nil {
				return err
			}
		}
	}
	dir, err := os.MkdirTemp(cfg.Dir, "node")
	if err != nil {
		return err
	}
	args := append(append([]string(nil), c.prefix...), server, "--bind", n.Host, "--port", strconv.Itoa(n.Port),
		"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-node-timeout", "15000",
		"--cluster-announce-ip", n.Host, // not the address that another node sees, which can be its own
		"--protected-mode", "no", "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0",
		"--dir", dir, "--cluster-config-file", filepath.Join(dir, "nodes.conf"))
	if t := cfg.TLS; t != nil {
		args = append(args, "--tls-port", strconv.Itoa(n.TLSPort), "--tls-cert-file", t.Cert, "--tls-key-file", t.Key,
			"--tls-ca-cert-file", t.CA, "--tls-auth-clients", "no", "--tls-cluster", "yes", "--tls-replication", "yes")
	}
	if cfg.Args != nil {
		args = append(args, cfg.Args(i)...)
	}
	if n.proc, err = Start(nil, args[0], args[1:]...); err != nil {
		return err
	}
	if err := n.proc.WaitOutput(ctx, "Ready to accept connections"); err != nil {
		_, _ = n.proc.Stop(syscall.SIGKILL)
		return err
	}
	c.Nodes = append(c.Nodes, n)
	return nil
}

// join makes one cluster of the nodes.
func (c *RedisCluster) join(ctx context.Context, masters int) error {
	for i := range c.Nodes {
		n := &c.Nodes[i]
		id, err := c.Do(ctx, i, "CLUSTER", "MYID")
		if err != nil {
			return err
		}
		n.ID = id
		if i < masters {
			from, to := i*redisSlots/masters, (i+1)*redisSlots/masters-1
			if _, err := c.Do(ctx, i, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(from), strconv.Itoa(to)); err != nil {
				return err
			}
		}
		if i > 0 {
			first := c.Nodes[0]
			bus, err := c.Do(ctx, 0, "CONFIG", "GET", "cluster-port")
			if err != nil {
				return err
			}
			_, bus, _ = strings.Cut(bus, "\n")
			if _, err := c.Do(ctx, i, "CLUSTER", "MEET", first.Host, strconv.Itoa(first.PeerPort()), bus); err != nil {
				return err
			}
		}
	}
	for i := masters; i < len(c.Nodes); i++ {
		master := c.Nodes[(i-masters)%masters].ID
		if err := c.until(ctx, "a master is known", func() bool {
			out, err := c.Do(ctx, i, "CLUSTER", "REPLICATE", master)
			return err == nil && out == "OK"
		}); err != nil {
			return err
		}
	}
	return c.until(ctx, "the cluster is well", func() bool {
		for i := range c.Nodes {
			info, err := c.Do(ctx, i, "CLUSTER", "INFO")
			if err != nil || !strings.Contains(info, "cluster_state:ok") ||
				!strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes))) {
				return false
			}
			if role, err := c.Do(ctx, i, "ROLE"); err != nil || i >= masters && !strings.Contains(role, "connected") {
				return false
			}
			nodes, err := c.Do(ctx, i, "CLUSTER", "NODES")
			if err != nil || strings.Count(nodes, "slave") != len(c.Nodes)-masters {
				return false
			}
		}
		return true
	})
}

func (c *RedisCluster) until(ctx context.Context, what string, ok func() bool) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
	return nil
}

// Do sends a command to a node, where it runs, and returns the answer as redis-cli prints it.
func (c *RedisCluster) Do(ctx context.Context, node int, args ...string) (string, error) {
	n := c.Nodes[node]
	full := append(append([]string(nil), c.prefix...), c.cli, "-h", n.Host, "-p", strconv.Itoa(n.Port))
	full = append(full, args...)
	out, err := exec.CommandContext(ctx, full[0], full[1:]...).CombinedOutput()
	answer := strings.TrimSpace(string(out))
	if err != nil {
		return answer, fmt.Errorf("redis-cli %s: %w: %s", strings.Join(args, " "), err, answer)
	}
	return answer, nil
}

// Close ends the nodes.
func (c *RedisCluster) Close() error {
	var errs []error
	for _, n := range c.Nodes {
		_, err := n.proc.Stop(syscall.SIGKILL)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
