package targets

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
)

// wire speaks the query protocol of RDS and ElastiCache: for each action it keeps the XML of the things there are.
type wire struct {
	things   map[string][]thing // by action
	pageSize int                // 0: all in one
	cut      string             // the service that is out of reach, as signatures name it

	mu    sync.Mutex
	calls []string // "DescribeDBInstances id=orders"
	fails map[string][]failure
}

type thing struct {
	id  string
	xml string // its members
}

type failure struct {
	status        int
	code, message string
}

// The shapes of the answers: the list, its member, the parameter for one member, and the error for a missing one.
var shapes = map[string]struct{ list, member, id, missing string }{
	"DescribeDBInstances": {"DBInstances", "DBInstance", "DBInstanceIdentifier", "DBInstanceNotFound"},
	"DescribeDBClusters":  {"DBClusters", "DBCluster", "DBClusterIdentifier", "DBClusterNotFoundFault"},
	"DescribeReplicationGroups": {
		"ReplicationGroups",
		"ReplicationGroup",
		"ReplicationGroupId",
		"ReplicationGroupNotFoundFault",
	},
	"DescribeServerlessCaches": {"ServerlessCaches", "member", "ServerlessCacheName", "ServerlessCacheNotFoundFault"},
	"DescribeCacheClusters":    {"CacheClusters", "CacheCluster", "CacheClusterId", "CacheClusterNotFound"},
}

func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	action := r.FormValue("Action")
	shape, ok := shapes[action]
	if !ok {
		answerError(rw, failure{400, "InvalidAction", action})
		return
	}
	id := r.FormValue(shape.id)
	w.mu.Lock()
	call := action
	if id != "" {
		call += " id=" + id
	}
	if r.FormValue("ShowCacheClustersNotInReplicationGroups") == "true" {
		call += " not in groups"
	}
	w.calls = append(w.calls, call)
	var fails *failure
	if queue := w.fails[action]; len(queue) > 0 {
		fails = &queue[0]
		if len(queue) > 1 { // the last one stays
			w.fails[action] = queue[1:]
		}
	}
	w.mu.Unlock()
	if fails != nil && fails.status != 200 {
		answerError(rw, *fails)
		return
	}

	var found []thing
	for _, t := range w.things[action] {
		if id == "" || t.id == id {
			found = append(found, t)
		}
	}
	if id != "" && len(found) == 0 {
		answerError(rw, failure{404, shape.missing, id + " not found."})
		return
	}
	if action == "DescribeCacheClusters" && r.FormValue("ShowCacheNodeInfo") != "true" {
		found = slices.Clone(found)
		for i := range found {
			found[i].xml = strings.ReplaceAll(found[i].xml, "CacheNodes>", "Hidden>")
		}
	}
	next := ""
	marker := r.FormValue("Marker") + r.FormValue("NextToken")
	if w.pageSize > 0 {
		start, _ := strconv.Atoi(strings.TrimPrefix(marker, "after-"))
		end := min(len(found), start+w.pageSize)
		if end < len(found) {
			next = fmt.Sprintf("after-%d", end)
		}
		found = found[start:end]
	}
	fmt.Fprintf(rw, "<%sResponse><%sResult><%s>", action, action, shape.list)
	for _, t := range found {
		fmt.Fprintf(rw, "<%s>%s</%s>", shape.member, t.xml, shape.member)
	}
	fmt.Fprintf(rw, "</%s>", shape.list)
	if next != "" {
		tag := "Marker"
		if action == "DescribeServerlessCaches" {
			tag = "NextToken"
		}
		fmt.Fprintf(rw, "<%s>%s</%s>", tag, next, tag)
	}
	fmt.Fprintf(rw, "</%sResult></%sResponse>", action, action)
}

func answerError(rw http.ResponseWriter, f failure) {
	rw.WriteHeader(f.status)
	fmt.Fprintf(
		rw,
		"<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>",
		f.code,
		f.message,
	)
}

// made returns the calls so far and forgets them.
func (w *wire) made() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

// resolver returns a Resolver whose real clients call w.
func (w *wire) resolver(t *testing.T) *Resolver {
	t.Helper()
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	client := server.Client()
	client.Transport = cutService{client.Transport, w}
	config := aws.Config{
		Region:       "eu-central-1",
		BaseEndpoint: aws.String(server.URL),
		Credentials:  credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
		HTTPClient:   client,
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
			})
		},
	}
	return &Resolver{AWS: Connect(config), Region: "eu-central-1"}
}

func instance(id, engine, status, host string, port int) thing {
	x := fmt.Sprintf(
		"<DBInstanceIdentifier>%s</DBInstanceIdentifier><Engine>%s</Engine><DBInstanceStatus>%s</DBInstanceStatus>",
		id,
		engine,
		status,
	)
	if host != "" {
		x += fmt.Sprintf("<Endpoint><Address>%s</Address><Port>%d</Port></Endpoint>", host, port)
	}
	return thing{id, x}
}

func member(cluster string, t thing) thing {
	t.xml += "<DBClusterIdentifier>" + cluster + "</DBClusterIdentifier>"
	return t
}

func cluster(id, engine, status, writer, reader string, port int) thing {
	x := fmt.Sprintf(
		"<DBClusterIdentifier>%s</DBClusterIdentifier><Engine>%s</Engine><Status>%s</Status>",
		id,
		engine,
		status,
	)
	if writer != "" {
		x += fmt.Sprintf("<Endpoint>%s</Endpoint><ReaderEndpoint>%s</ReaderEndpoint><Port>%d</Port>", writer, reader, port)
	}
	return thing{id, x}
}

func address(tag, host string, port int) string {
	if host == "" {
		return ""
	}
	return fmt.Sprintf("<%s><Address>%s</Address><Port>%d</Port></%s>", tag, host, port, tag)
}

func group(id, status, primary, reader string) thing {
	return thing{id, fmt.Sprintf("<ReplicationGroupId>%s</ReplicationGroupId><Status>%s</Status><Engine>redis</Engine>"+
		"<ClusterEnabled>false</ClusterEnabled><TransitEncryptionEnabled>false</TransitEncryptionEnabled>"+
		"<NodeGroups><NodeGroup>%s%s</NodeGroup></NodeGroups>",
		id, status, address("PrimaryEndpoint", primary, 6379), address("ReaderEndpoint", reader, 6379))}
}

// cutService refuses the connections to one service.
type cutService struct {
	http.RoundTripper
	w *wire
}

func (c cutService) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.w.cut != "" && strings.Contains(r.Header.Get("Authorization"), "/"+c.w.cut+"/aws4_request") {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	return c.RoundTripper.RoundTrip(r)
}
