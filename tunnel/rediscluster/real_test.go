package rediscluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/tunnel"
)

const (
	realMasters = 3
	realNodes   = 4 // the last is a replica
)

// hostName is the name that a node announces. It resolves nowhere; only vpcDialer knows it.
func hostName(i int) string { return fmt.Sprintf("node-%d.cache.invalid", i+1) }

// vpcDialer is the bastion of a test: it reaches the nodes by the names and ports that they announce, and nothing else.
type vpcDialer struct {
	mu    sync.Mutex
	known map[string]string // announced host:port to the real one
	asked []string
}

func (d *vpcDialer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	d.asked = append(d.asked, addr)
	known, ok := d.known[addr]
	d.mu.Unlock()
	if !ok {
		return nil, errors.New("not in this VPC: " + addr)
	}
	if err := rig.Guard(known); err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, network, known)
}

// lab is a real cluster and a forward of it.
type lab struct {
	*rig.RedisCluster
	dialer  *vpcDialer
	cluster *Cluster
	stats   *tunnel.Stats
	addr    string // of the forward
	ca      *x509.CertPool
	tls     bool
}

func startLab(t *testing.T) *lab {
	t.Helper()
	for _, program := range []string{"redis-server", "redis-cli"} {
		rig.Need(t, program)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	files, pool := serverCert(t, dir, "*.cache.invalid")
	c, err := rig.StartRedisCluster(ctx, rig.RedisClusterConfig{
		Dir: dir, Hosts: slices.Repeat([]string{"127.0.0.1"}, realNodes), Masters: realMasters, TLS: files,
		Args: func(i int) []string {
			return []string{
				"--cluster-announce-hostname", hostName(i), "--cluster-preferred-endpoint-type", "hostname",
				"--enable-debug-command", "local",
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	d := &vpcDialer{known: make(map[string]string)}
	for i, n := range c.Nodes {
		for _, port := range []int{n.Port, n.TLSPort} {
			d.known[net.JoinHostPort(hostName(i), strconv.Itoa(port))] = net.JoinHostPort(n.Host, strconv.Itoa(port))
		}
	}
	l := &lab{RedisCluster: c, dialer: d, ca: pool}
	for i := range realNodes {
		for all := false; !all; { // the names spread by gossip
			out, err := c.Do(ctx, i, "CLUSTER", "SLOTS")
			if err != nil {
				t.Fatal(err)
			}
			all = true
			for j := range realNodes {
				all = all && strings.Contains(out, hostName(j))
			}
		}
	}
	return l
}

// serve starts a forward of the first node.
func (l *lab) serve(t *testing.T, cfg Config) *lab {
	t.Helper()
	served := *l
	served.stats = new(tunnel.Stats)
	cfg.Forward.Stats = served.stats
	cfg.Forward.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	port := l.Nodes[0].Port
	if cfg.TLS != nil {
		port, served.tls = l.Nodes[0].TLSPort, true
	}
	served.cluster, served.addr = serve(t, l.dialer, net.JoinHostPort(hostName(0), strconv.Itoa(port)), cfg)
	return &served
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// serve serves until the test ends.
func serve(t *testing.T, d tunnel.Dialer, dest string, cfg Config) (*Cluster, string) {
	t.Helper()
	c, err := New(d, dest, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c, ln.Addr().String()
}

// serverCert makes a certificate authority and the certificate of a server for a name.
func serverCert(t *testing.T, dir, name string) (*rig.RedisTLS, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	files := &rig.RedisTLS{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	files.CA = files.Cert
	for file, content := range map[string][]byte{
		files.Cert: certPEM, files.Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return files, pool
}

// TestRealCluster has one cluster for all, because a cluster takes seconds to form.
func TestRealCluster(t *testing.T) {
	l := startLab(t)
	t.Run("go-redis RESP2", func(t *testing.T) { testClient(t, l.serve(t, Config{}), 2) })
	t.Run("go-redis RESP3", func(t *testing.T) { testClient(t, l.serve(t, Config{}), 3) })
	t.Run("go-redis over TLS", func(t *testing.T) {
		testClient(t, l.serve(t, Config{TLS: &tls.Config{RootCAs: l.ca, MinVersion: tls.VersionTLS12}}), 3)
	})
	t.Run("TLS to another", func(t *testing.T) { testUnverified(t, l) })
	t.Run("redis-cli", func(t *testing.T) { testRedisCLI(t, l.serve(t, Config{})) })
	t.Run("answers", func(t *testing.T) { testAnswers(t, l.serve(t, Config{})) })
	t.Run("identical", func(t *testing.T) { testIdentical(t, l.serve(t, Config{})) })
	t.Run("large", func(t *testing.T) { testLarge(t, l.serve(t, Config{})) })
	t.Run("resharding", func(t *testing.T) { testResharding(t, l.serve(t, Config{})) })
	t.Run("failover", func(t *testing.T) { testFailover(t, l.serve(t, Config{})) })
}

// client returns a cluster client that knows the forward alone. At the test's end it must have talked to nobody but the
// forward's listeners.
func (l *lab) client(t *testing.T, protocol int) *redis.ClusterClient {
	t.Helper()
	var mu sync.Mutex
	dialed := make(map[string]bool)
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{l.addr}, Protocol: protocol, MaxRedirects: 16, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
		DialTimeout: time.Minute, RouteRandomly: false,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			dialed[addr] = true
			mu.Unlock()
			return rig.Dial(ctx, addr)
		},
	})
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		for _, n := range l.cluster.Nodes() {
			delete(dialed, n.Listen)
		}
		if len(dialed) > 0 {
			t.Errorf("the client has dialed %v, which are no listeners", dialed)
		}
	})
	return client
}

func testClient(t *testing.T, l *lab, protocol int) {
	ctx := t.Context()
	client := l.client(t, protocol)
	for i := range 100 {
		key := fmt.Sprintf("key-%d-%d", protocol, i)
		if err := client.Set(ctx, key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := client.Get(ctx, key).Int(); err != nil || got != i {
			t.Fatalf("%s: %d, %v", key, got, err)
		}
	}
	var mu sync.Mutex
	masters := make(map[string]bool)
	if err := client.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		masters[c.Options().Addr] = true
		return c.Ping(ctx).Err()
	}); err != nil || len(masters) != realMasters {
		t.Errorf("masters %v, %v", masters, err)
	}
	if err := client.ForEachSlave(ctx, func(ctx context.Context, c *redis.Client) error {
		return c.Ping(ctx).Err()
	}); err != nil {
		t.Error(err)
	}

	// Pipelines are split over the nodes.
	pipe := client.Pipeline()
	for i := range 1000 {
		pipe.Set(ctx, "pipe-"+strconv.Itoa(i), i, 0)
		pipe.Get(ctx, "pipe-"+strconv.Itoa(i))
	}
	results, err := pipe.Exec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if got, ok := results[2*i+1].(*redis.StringCmd); !ok || got.Val() != strconv.Itoa(i) {
			t.Fatalf("pipe-%d: %v", i, results[2*i+1])
		}
	}
	// A transaction on one slot.
	if results, err = client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "{tx}a", "1", 0)
		p.IncrBy(ctx, "{tx}a", 41)
		return nil
	}); err != nil || results[1].(*redis.IntCmd).Val() != 42 {
		t.Errorf("transaction: %v, %v", results, err)
	}

	// PubSub of both kinds.
	for _, sharded := range []bool{false, true} {
		subscribe, publish := client.Subscribe, client.Publish
		if sharded {
			subscribe, publish = client.SSubscribe, client.SPublish
		}
		sub := subscribe(ctx, "news-a")
		if _, err := sub.Receive(ctx); err != nil {
			t.Fatal(err)
		}
		if err := publish(ctx, "news-a", "hello").Err(); err != nil {
			t.Fatal(err)
		}
		if m, err := sub.ReceiveMessage(ctx); err != nil || m.Payload != "hello" {
			t.Errorf("message %v, %v", m, err)
		}
		if err := sub.Close(); err != nil {
			t.Error(err)
		}
	}

	nodes := l.cluster.Nodes()
	if len(nodes) != realNodes {
		t.Errorf("nodes %+v", nodes)
	}
	for i, n := range nodes {
		port := l.Nodes[i].Port
		if l.tls {
			port = l.Nodes[i].TLSPort
		}
		if want := net.JoinHostPort(hostName(i), strconv.Itoa(port)); n.Target != want {
			t.Errorf("node %d is %s, want %s", i, n.Target, want)
		}
	}
	if s := l.stats.Snapshot(); s.Failed != 0 || s.Total < realMasters || s.BytesDown == 0 {
		t.Errorf("stats %+v", s)
	}
}

// With a certificate for another name nothing is sent to the node.
func testUnverified(t *testing.T, l *lab) {
	var refused sync.Once
	why := make(chan error, 1)
	cfg := Config{TLS: &tls.Config{RootCAs: l.ca, ServerName: "elsewhere.example", MinVersion: tls.VersionTLS12}}
	stats := &tunnel.Stats{OnEnd: func(_ tunnel.ConnSnapshot, err error) { refused.Do(func() { why <- err }) }}
	cfg.Forward.Stats = stats
	_, addr := serve(t, l.dialer, net.JoinHostPort(hostName(0), strconv.Itoa(l.Nodes[0].TLSPort)), cfg)
	c, err := rig.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes", n)
	}
	if err := <-why; err == nil || !strings.Contains(err.Error(), "verify the certificate of "+hostName(0)) {
		t.Errorf("refused because: %v", err)
	}
}

func testRedisCLI(t *testing.T, l *lab) {
	cli := rig.Need(t, "redis-cli")
	host, port, err := net.SplitHostPort(l.addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, flag := range []string{"-2", "-3"} {
		var script strings.Builder
		for i := range 50 {
			fmt.Fprintf(&script, "set cli-%d v%d\nget cli-%d\n", i, i, i)
		}
		cmd := exec.CommandContext(ctx, cli, "-c", flag, "-h", host, "-p", port)
		cmd.Stdin = strings.NewReader(script.String())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		lines := strings.Fields(string(out))
		for i := range 50 {
			if !slices.Contains(lines, fmt.Sprintf("v%d", i)) {
				t.Errorf("redis-cli %s: no v%d in %s", flag, i, out)
			}
		}
	}
	// Without following them, one sees what the redirections name.
	out, err := exec.CommandContext(ctx, cli, "-h", host, "-p", port, "cluster", "nodes").CombinedOutput()
	if err != nil || strings.Contains(string(out), "cache.invalid") {
		t.Errorf("%v: %s", err, out)
	}
}

// rawConn speaks RESP as it is.
type rawConn struct {
	net.Conn
	r *bufio.Reader
}

func dialRaw(t *testing.T, addr string) *rawConn {
	t.Helper()
	c, err := rig.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &rawConn{c, bufio.NewReader(c)}
}

func (c *rawConn) send(t *testing.T, commands ...[]string) {
	t.Helper()
	var b strings.Builder
	for _, args := range commands {
		b.WriteString(command(args...))
	}
	if _, err := io.WriteString(c, b.String()); err != nil {
		t.Error(err)
	}
}

// until reads up to the reply to ECHO with text.
func (c *rawConn) until(t *testing.T, text string) string {
	t.Helper()
	end := bulk(text)
	var b []byte
	for !bytes.HasSuffix(b, []byte(end)) {
		x, err := c.r.ReadByte()
		if err != nil {
			t.Fatalf("%v after %q", err, b)
		}
		b = append(b, x)
	}
	return string(b[:len(b)-len(end)])
}

// Answers that name nodes have the listeners in their place, in each protocol and in a transaction, even with a message of PubSub
// in between.
func testAnswers(t *testing.T, l *lab) {
	for _, hello := range []string{"2", "3"} {
		c := dialRaw(t, l.addr)
		c.send(t, []string{"HELLO", hello}, []string{"CLUSTER", "SHARDS"}, []string{"ECHO", "1"})
		shards := c.until(t, "1")
		c.send(t, []string{"CLUSTER", "SLOTS"}, []string{"CLUSTER", "NODES"}, []string{"CLUSTER", "REPLICAS", l.Nodes[0].ID},
			[]string{"MULTI"}, []string{"CLUSTER", "NODES"}, []string{"CLUSTER", "SLOTS"}, []string{"EXEC"},
			[]string{"ECHO", "2"})
		rest := c.until(t, "2")
		for _, text := range []string{shards, rest} {
			if strings.Contains(text, "cache.invalid") {
				t.Errorf("RESP%s: a node is named: %q", hello, text)
			}
			for _, n := range l.Nodes {
				if strings.Contains(text, fmt.Sprintf("\r\n:%d\r\n", n.Port)) ||
					strings.Contains(text, fmt.Sprintf(":%d@", n.Port)) {
					t.Errorf("RESP%s: a node's port is named: %q", hello, text)
				}
			}
		}
		if nodes := l.cluster.Nodes(); len(nodes) != realNodes {
			t.Errorf("RESP%s: %d listeners for %d nodes: %+v", hello, len(nodes), realNodes, nodes)
		}
		for _, n := range l.cluster.Nodes() {
			if got := strings.Count(rest, " "+n.Listen+"@"); got < 2 {
				t.Errorf("RESP%s: %s is named %d times in %q", hello, n.Listen, got, rest)
			}
		}
	}
}

// What a node answers to anything else arrives as it would without the forward, byte for byte.
func testIdentical(t *testing.T, l *lab) {
	direct := net.JoinHostPort(l.Nodes[0].Host, strconv.Itoa(l.Nodes[0].Port))
	for _, hello := range []string{"2", "3"} {
		seed := mathrand.Uint64()
		t.Logf("seed %d", seed)
		var got [2]string
		for i, addr := range []string{direct, l.addr} {
			c := dialRaw(t, addr)
			c.send(t, []string{"HELLO", hello}, []string{"FLUSHALL"}, []string{"ECHO", "begin"})
			_ = c.until(t, "begin")
			var work sync.WaitGroup
			work.Go(func() { c.send(t, workload(seed, 3000, hello == "3")...) })
			got[i] = c.until(t, "end of the workload")
			work.Wait()
			if hello == "2" && addr == l.addr { // the forward still knows what answers what
				c.send(t, []string{"CLUSTER", "SLOTS"}, []string{"ECHO", "x"})
				if slots := c.until(t, "x"); strings.Contains(slots, "cache.invalid") {
					t.Errorf("seed %d: not rewritten: %q", seed, slots)
				}
			}
		}
		if got[0] != got[1] {
			at := 0
			for at < min(len(got[0]), len(got[1])) && got[0][at] == got[1][at] {
				at++
			}
			t.Errorf("RESP%s, seed %d: differs after %d bytes of %d: ...%.200q, want ...%.200q", hello, seed, at, len(got[0]),
				got[1][max(0, at-50):], got[0][max(0, at-50):])
		}
		t.Logf("RESP%s: %d bytes compared", hello, len(got[0]))
	}
}

// workload is a sequence of commands whose answers do not depend on anything else; with skip, some have none.
func workload(seed uint64, n int, skip bool) [][]string {
	rng := mathrand.New(mathrand.NewPCG(seed, 0))
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	var out [][]string
	for range n {
		k := "{a}" + strconv.Itoa(rng.IntN(20)) // of slot 15495: not the first node's, whose are 0 to 5460
		if rng.IntN(10) > 0 {
			k = "{b}" + strconv.Itoa(rng.IntN(20)) // 3300: its own
		}
		value := strings.Repeat(pick("x", "\r\n", "-MOVED 1 node-1.cache.invalid:1\r\n", "*3\r\n", "$5\r\n", "\x00"),
			rng.IntN(300))
		c := [][]string{
			{"SET", k, value},
			{"GET", k},
			{"APPEND", k, value},
			{"DEL", k},
			{"RPUSH", k + "l", value, "message", "a"},
			{"LRANGE", k + "l", "0", "5"},
			{"HSET", k + "h", "message", value},
			{"HGETALL", k + "h"},
			{"ZADD", k + "z", "1.5", value},
			{"ZRANGE", k + "z", "0", "3", "WITHSCORES"},
			{"MULTI"},
			{"EXEC"},
			{"DISCARD"},
			{"PING"},
			{"NOSUCH", value},
			{"EVAL", "return {1,{2,{3,'x'}},redis.status_reply('QUEUED'),redis.error_reply('MOVED 1 h:1')}", "1", k},
			{"EVAL", "return redis.error_reply('ERR ' .. ARGV[1])", "1", k, value},
			{"COMMAND", "INFO", "get", "set"},
			{"CLUSTER", "KEYSLOT", k},
			{"CLUSTER", "COUNTKEYSINSLOT", "1"},
			{"BLPOP", k + "l", "0.001"},
			{"OBJECT", "HELP"},
			{"CLUSTER", "HELP"},
			{"MEMORY", "HELP"},
			{"CLIENT", "REPLY", "SKIP"},
			{"PUBLISH", "x", value},
			{"SETRANGE", k, "100000", "x"},
			{"STRLEN", k},
			{"DEBUG", "PROTOCOL", pick("verbatim", "map", "set", "attrib", "double", "bignum", "null", "true", "push")},
		}
		next := c[rng.IntN(len(c))]
		if next[0] == "CLIENT" && !skip {
			next = []string{"ASKING"}
		}
		if k[1] == 'a' && next[0] != "GET" { // the comparison ignores redirections
			next = []string{"ECHO", value}
		} else if next[0] == "GET" && k[1] == 'a' {
			next = []string{"PING"}
		}
		out = append(out, next)
	}
	return append(out, []string{"DISCARD"}, []string{"PING"}, []string{"ECHO", "end of the workload"})
}

// A value passes without being kept.
func testLarge(t *testing.T, l *lab) {
	const size = 64 << 20
	c := dialRaw(t, l.addr) // {b}'s node
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var work sync.WaitGroup
	work.Go(func() {
		_, err := fmt.Fprintf(c, "*3\r\n$3\r\nSET\r\n$6\r\n{b}big\r\n$%d\r\n", size)
		for range size / len(chunk) {
			if err == nil {
				_, err = c.Write(chunk)
			}
		}
		if err == nil {
			_, err = io.WriteString(c, "\r\n"+command("GET", "{b}big"))
		}
		if err != nil {
			t.Error(err)
		}
	})
	head := fmt.Sprintf("+OK\r\n$%d\r\n", size)
	buf := make([]byte, len(chunk))
	if _, err := io.ReadFull(c.r, buf[:len(head)]); err != nil || string(buf[:len(head)]) != head {
		t.Fatalf("%q, %v", buf[:len(head)], err)
	}
	for range size / len(chunk) {
		if _, err := io.ReadFull(c.r, buf); err != nil || !bytes.Equal(buf, chunk) {
			t.Fatalf("the value differs, or %v", err)
		}
	}
	work.Wait()
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d bytes were allocated for a value of %d", grown, size)
	} else {
		t.Logf("%d bytes were allocated for a value of %d, there and back", grown, size)
	}
	c.send(t, []string{"DEL", "{b}big"}, []string{"ECHO", "x"})
	_ = c.until(t, "x")
}

// A slot that is on its way from one node to another: keys that have gone already are asked for by ASK.
func testResharding(t *testing.T, l *lab) {
	ctx := t.Context()
	client := l.client(t, 3)
	const key, other, slot = "{b}moving", "{b}staying", "3300"
	if out, err := l.Do(ctx, 0, "FLUSHALL"); err != nil {
		t.Fatal(out, err)
	}
	for _, k := range []string{key, other} {
		if err := client.Set(ctx, k, "value", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	do := func(node int, args ...string) {
		t.Helper()
		out, err := l.Do(ctx, node, args...)
		if err != nil || strings.HasPrefix(out, "ERR") {
			t.Fatalf("%v: %s, %v", args, out, err)
		}
	}
	from, to := l.Nodes[0], l.Nodes[1]
	do(1, "CLUSTER", "SETSLOT", slot, "IMPORTING", from.ID)
	do(0, "CLUSTER", "SETSLOT", slot, "MIGRATING", to.ID)
	do(0, "MIGRATE", to.Host, strconv.Itoa(to.PeerPort()), key, "0", "60000")
	for _, k := range []string{key, other} {
		if got, err := client.Get(ctx, k).Result(); err != nil || got != "value" {
			t.Errorf("%s: %q, %v", k, got, err)
		}
	}
	c := dialRaw(t, l.addr)
	c.send(t, []string{"GET", key}, []string{"ECHO", "x"})
	ask := c.until(t, "x")
	var target string
	for _, n := range l.cluster.Nodes() {
		if n.Target == net.JoinHostPort(hostName(1), strconv.Itoa(to.Port)) {
			target = n.Listen
		}
	}
	if want := "-ASK " + slot + " " + target + "\r\n"; ask != want {
		t.Errorf("%q, want %q", ask, want)
	}
	do(0, "MIGRATE", to.Host, strconv.Itoa(to.PeerPort()), other, "0", "60000")
	for i := range realMasters {
		do(i, "CLUSTER", "SETSLOT", slot, "NODE", to.ID)
	}
	for _, k := range []string{key, other} {
		if got, err := client.Get(ctx, k).Result(); err != nil || got != "value" {
			t.Errorf("%s, moved: %q, %v", k, got, err)
		}
	}
}

// A replica that takes over is followed.
func testFailover(t *testing.T, l *lab) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := l.client(t, 3)
	if out, err := l.Do(ctx, realNodes-1, "CLUSTER", "FAILOVER"); err != nil || out != "OK" {
		t.Fatal(out, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		if err := client.Set(ctx, "failover", n, 0).Err(); err != nil { // in slot 3739, of the first node's
			t.Fatal(err)
		}
		role, err := l.Do(ctx, realNodes-1, "ROLE")
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(role, "master") {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the replica has not taken over")
		}
	}
	for i := range 100 {
		key := "after-" + strconv.Itoa(i)
		if err := client.Set(ctx, key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := client.Get(ctx, key).Int(); err != nil || got != i {
			t.Fatalf("%s: %d, %v", key, got, err)
		}
	}
}
