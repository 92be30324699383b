//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opensearch-project/opensearch-go/v4"
	"github.com/opensearch-project/opensearch-go/v4/opensearchapi"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/bastion-ssm/bastion/internal/inventory"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// certified returns the TLS of a server with the names, and of clients that trust the lab's authority.
func (e *labEnv) certified(names ...string) (server, client *tls.Config) {
	e.t.Helper()
	issued, err := e.DatabaseAuthority().Issue(names...)
	if err != nil {
		e.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(issued.Cert, issued.Key)
	if err != nil {
		e.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(e.DatabaseAuthority().PEM())
	return &tls.Config{Certificates: []tls.Certificate{pair}}, &tls.Config{RootCAs: roots}
}

// listedHost returns the address that ls targets has for a target, without its port.
func (e *labEnv) listedHost(spec string) string {
	e.t.Helper()
	kind, _, _ := strings.Cut(spec, ":")
	var out inventory.Output
	if err := json.Unmarshal([]byte(e.must("ls", "targets", "--kind", kind, "--refresh", "-o", "json").stdout), &out); err != nil {
		e.t.Fatal(err)
	}
	for _, target := range out.Targets {
		if target.Spec == spec {
			host, _, _ := net.SplitHostPort(target.Host)
			return host
		}
	}
	e.t.Fatalf("ls targets lacks %s: %+v", spec, out)
	return ""
}

// named is a listener that says another name of its host, as a broker of MSK does. It counts its connections.
type named struct {
	net.Listener
	name  string
	conns atomic.Int32
}

type namedAddr string

func (namedAddr) Network() string  { return "tcp" }
func (n namedAddr) String() string { return string(n) }

func (n *named) Addr() net.Addr {
	_, port, _ := net.SplitHostPort(n.Listener.Addr().String())
	return namedAddr(net.JoinHostPort(n.name, port))
}

func (n *named) Accept() (net.Conn, error) {
	conn, err := n.Listener.Accept()
	if err == nil {
		n.conns.Add(1)
	}
	return conn, err
}

// TestKafka: with --hosts, a client of Kafka reaches every broker of a cluster by the name that the brokers give it, over TLS that
// verifies these names. It writes to partitions of both brokers, and reads all.
func TestKafka(t *testing.T) {
	t.Parallel()
	const topic, partitions = "orders", 4
	e := startLab(t, nil)
	brokers := make([]*named, 2)
	cluster := lab.Kafka{Name: "events", TLS: true}
	for i := range brokers {
		ln, err := net.Listen("tcp", net.JoinHostPort(vpc.LoopbackHost(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		brokers[i] = &named{Listener: ln}
		cluster.Brokers = append(cluster.Brokers, netip.MustParseAddrPort(ln.Addr().String()))
	}
	if err := e.AddKafka(cluster); err != nil {
		t.Fatal(err)
	}
	brokers[0].name = e.listedHost("msk:events")
	brokers[1].name = "b-2." + strings.TrimPrefix(brokers[0].name, "b-1.")
	server, client := e.certified(brokers[0].name, brokers[1].name)
	var next atomic.Int32
	kafka, err := kfake.NewCluster(kfake.NumBrokers(len(brokers)), kfake.SeedTopics(partitions, topic), kfake.TLS(server),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return brokers[next.Add(1)-1], nil }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	for i := range partitions {
		if err := kafka.MoveTopicPartition(topic, int32(i), int32(i%len(brokers))); err != nil {
			t.Fatal(err)
		}
	}

	hosts := filepath.Join(t.TempDir(), "hosts")
	writeFile(t, hosts, "127.0.0.1 localhost\n")
	p, forwards := e.forwards([]string{"BASTION_HOSTS_FILE=" + hosts}, "--hosts", "msk:events")
	if len(forwards) != len(brokers) {
		t.Fatalf("%+v", forwards)
	}
	text, err := os.ReadFile(hosts)
	if err != nil {
		t.Fatal(err)
	}
	address := make(map[string]string) // of names, as the system's resolver has them from the hosts file
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 {
			address[f[1]] = f[0]
		}
	}
	connect := func(ctx context.Context, network, at string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(at)
		if err != nil {
			return nil, err
		}
		if address[host] == "" {
			return nil, fmt.Errorf("the hosts file lacks %q", host)
		}
		own := client.Clone()
		own.ServerName = host
		return (&tls.Dialer{Config: own}).DialContext(ctx, network, net.JoinHostPort(address[host], port))
	}
	_, port, err := net.SplitHostPort(brokers[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(net.JoinHostPort(brokers[0].name, port)), kgo.Dialer(connect), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range partitions {
		record := &kgo.Record{Topic: topic, Partition: int32(i), Value: fmt.Append(nil, i)}
		if err := c.ProduceSync(ctx, record).FirstErr(); err != nil {
			t.Fatalf("write to partition %d: %v", i, err)
		}
	}
	read := make(map[string]int32)
	for len(read) < partitions {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %v: %v", read, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { read[string(r.Value)] = r.Partition })
	}
	for i := range partitions {
		if got, ok := read[fmt.Sprint(i)]; !ok || got != int32(i) {
			t.Errorf("%v", read)
		}
	}
	for _, b := range brokers {
		if b.conns.Load() == 0 {
			t.Errorf("nobody has connected to %s", b.name)
		}
	}
	c.Close()
	e.stop(p, syscall.SIGTERM, 143)
	if text, err := os.ReadFile(hosts); err != nil || strings.Contains(string(text), "b-1.") {
		t.Errorf("the hosts file has %q, %v", text, err)
	}
}

// TestOpenSearch: a client of OpenSearch introduces itself, writes and searches through a forward, over TLS that verifies the domain's name.
func TestOpenSearch(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	ln, err := net.Listen("tcp", net.JoinHostPort(vpc.LoopbackHost(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(ln.Addr().String())
	if err := e.AddSearch(lab.Search{Name: "logs", Addr: at}); err != nil {
		t.Fatal(err)
	}
	name := e.listedHost("opensearch:logs")
	server, client := e.certified(name)
	domain := &searchDomain{}
	web := &httptest.Server{Listener: ln, TLS: server, Config: &http.Server{Handler: domain}}
	web.StartTLS()
	t.Cleanup(web.Close)

	p, forwards := e.forwards(nil, fmt.Sprintf("opensearch:logs:%d", at.Port()), ":")
	client.ServerName = name
	transport := &http.Transport{TLSClientConfig: client}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := opensearchapi.NewClient(opensearchapi.Config{Client: opensearch.Config{
		Addresses: []string{"https://" + forwards[0].Listen}, Transport: transport, DisableRetry: true, Context: ctx,
	}})
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(ctx, nil)
	if err != nil || info.ClusterName != "logs" || info.Version.Number != searchVersion {
		t.Errorf("%+v, %v", info, err)
	}
	made, err := c.Index(ctx, opensearchapi.IndexReq{Index: "lines", DocumentID: "1", Body: strings.NewReader(`{"text":"through the bastion"}`)})
	if err != nil || made.ID != "1" || made.Result != "created" {
		t.Errorf("%+v, %v", made, err)
	}
	found, err := c.Search(ctx, &opensearchapi.SearchReq{Indices: []string{"lines"}})
	if err != nil || len(found.Hits.Hits) != 1 || !strings.Contains(string(found.Hits.Hits[0].Source), "through the bastion") {
		t.Errorf("%+v, %v", found, err)
	}
	e.stop(p, syscall.SIGTERM, 143)
}

// searchVersion is the version of searchDomain.
const searchVersion = "2.19.1"

// searchDomain answers as an OpenSearch domain with one document.
type searchDomain struct {
	mu     sync.Mutex
	source json.RawMessage
}

func (d *searchDomain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var answer any
	status := http.StatusOK
	shards := map[string]any{"total": 1, "successful": 1, "failed": 0, "skipped": 0}
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/":
		answer = map[string]any{
			"name": "node-1", "cluster_name": "logs", "tagline": "The OpenSearch Project: https://opensearch.org/",
			"version": map[string]any{"distribution": "opensearch", "number": searchVersion},
		}
	case r.Method == http.MethodPut && r.URL.Path == "/lines/_doc/1":
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		d.source, status = body, http.StatusCreated
		answer = map[string]any{"_index": "lines", "_id": "1", "_version": 1, "result": "created", "_shards": shards}
	case r.URL.Path == "/lines/_search":
		answer = map[string]any{
			"took": 1, "timed_out": false, "_shards": shards,
			"hits": map[string]any{
				"total": map[string]any{"value": 1, "relation": "eq"}, "max_score": 1.0,
				"hits": []any{map[string]any{"_index": "lines", "_id": "1", "_score": 1.0, "_source": d.source}},
			},
		}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}
