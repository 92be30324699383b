//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// A Redis cluster in a VPC whose addresses this machine cannot reach. The forward sends clients of one local address on to the
// other nodes, through the bastion, whose list of destinations leaves one node out.
func TestRedisCluster(t *testing.T) {
	rig.NeedRoot(t)
	for _, program := range []string{"redis-server", "redis-cli", "ip"} {
		rig.Need(t, program)
	}
	vpc := newNetns(t)
	vpc.ip("link", "set", "lo", "up")
	hosts := []string{"10.99.1.11", "10.99.1.12", "10.99.1.13", "10.99.1.24"}
	for _, host := range hosts {
		vpc.ip("addr", "add", host+"/32", "dev", "lo")
	}
	const listed = "10.99.1.8/29" // not the replica
	w := newWorld(t, func(c *lab.Config) {
		c.Runner = &lab.IsolatedRunner{
			Root: imageRoot(t), UID: imageUser, GID: imageUser,
			VPC: &lab.VPCLink{Netns: vpc.name, Pool: netip.MustParsePrefix(vpcTasks)},
		}
		c.Allow = []string{listed + ":6379"}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	start, cancelStart := context.WithTimeout(ctx, time.Minute)
	defer cancelStart()
	nodes, err := rig.StartRedisCluster(start, rig.RedisClusterConfig{
		Dir: t.TempDir(), Prefix: []string{"ip", "netns", "exec", vpc.name}, Hosts: hosts, Port: 6379, Masters: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nodes.Close(); err != nil {
			t.Error(err)
		}
	})
	if out := ip(t, "route", "show", "table", "all", "to", "root", vpcNetwork); out != "" {
		t.Fatalf("this machine has routes to %s: %s", vpcNetwork, out)
	}

	w.up()
	p := w.bastion("forward", "--redis-cluster", "follow", hosts[0]+":6379", ":")
	line, err := p.Line(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	addr, _, ok := strings.Cut(line, " -> ")
	if !ok {
		t.Fatalf("%q", line)
	}

	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for i := range 20 {
		fmt.Fprintf(&script, "set cli-%d v%d\nget cli-%d\n", i, i, i)
	}
	cmd := exec.CommandContext(ctx, "redis-cli", "-c", "-h", host, "-p", port)
	cmd.Stdin = strings.NewReader(script.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	values := strings.Fields(string(out))
	for i := range 20 {
		if !slices.Contains(values, fmt.Sprintf("v%d", i)) {
			t.Errorf("redis-cli -c: no v%d in %s", i, out)
		}
	}

	var mu sync.Mutex
	dialed := make(map[string]bool)
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{addr}, DialTimeout: time.Minute, ReadTimeout: time.Minute,
		Dialer: func(ctx context.Context, _, addr string) (net.Conn, error) {
			mu.Lock()
			dialed[addr] = true
			mu.Unlock()
			return rig.Dial(ctx, addr) // loopback alone
		},
	})
	defer client.Close()
	for i := range 50 {
		key := fmt.Sprintf("go-%d", i)
		if err := client.Set(ctx, key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := client.Get(ctx, key).Int(); err != nil || got != i {
			t.Errorf("%s: %d, %v", key, got, err)
		}
	}
	if len(dialed) < 3 {
		t.Errorf("go-redis has dialed %v, want a listener for each master", dialed)
	}

	one := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: time.Minute})
	defer one.Close()
	known, err := one.ClusterNodes(ctx).Result()
	if err != nil || strings.Contains(known, "10.99.") {
		t.Errorf("CLUSTER NODES: %q, %v", known, err)
	}
	var replica string
	listeners := make(map[string]bool)
	for line := range strings.Lines(known) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.Contains(fields[1], "@") {
			continue
		}
		listen, _, _ := strings.Cut(fields[1], "@")
		listeners[listen] = true
		if strings.Contains(fields[2], "slave") {
			replica = listen
		}
	}
	if len(listeners) != len(hosts) || replica == "" {
		t.Fatalf("listeners: %v, the replica's %q", listeners, replica)
	}
	task := w.Tasks()[0]
	reached := make(map[any]bool)
	for _, e := range w.audit(task, "connect") {
		reached[e["address"]] = true
	}
	for _, h := range hosts[:3] {
		if !reached[h+":6379"] {
			t.Errorf("the audit has no connection to %s: %v", h, reached)
		}
	}
	// The reset of a refused connection may come before the client knows that it is connected.
	if conn, err := net.Dial("tcp", replica); err == nil {
		if got, err := redisCommand(conn, "PING"); err == nil {
			t.Errorf("a node that is not on the bastion's list answered %q", got)
		}
		_ = conn.Close()
	}
	if reached[hosts[3]+":6379"] {
		t.Errorf("the audit: %v", reached)
	}
}
