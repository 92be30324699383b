//go:build unix

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/kubeconfig"
	"github.com/bastion-ssm/bastion/lab"
)

// kubeAPI is the API server of an EKS cluster: TLS with a CA of its own, and EKS's tokens.
type kubeAPI struct {
	addr netip.AddrPort
	ca   []byte

	mu      sync.Mutex
	callers []string // the identities of the requests
	refused int
}

// listenAt listens at a port of a loopback address where nobody else does. Some services have one port everywhere.
func listenAt(t *testing.T, port uint16) net.Listener {
	t.Helper()
	var failed error
	for range 20 {
		var b [3]byte
		_, _ = rand.Read(b[:])
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 100 + b[0]%100, b[1], 1 + b[2]%250}), port)
		ln, err := net.Listen("tcp", addr.String())
		if err == nil {
			return ln
		}
		failed = err
	}
	rig.LeaveOut(t, failed.Error())
	return nil
}

// addKube adds a cluster whose API server is real to its clients, at the port 443 of a loopback address.
func (e *labEnv) addKube(name string) *kubeAPI {
	e.t.Helper()
	ln := listenAt(e.t, 443)
	k := &kubeAPI{addr: netip.MustParseAddrPort(ln.Addr().String())}
	var cert tls.Certificate
	k.ca, cert = kubeCert(e.t, e.KubernetesHost(name))
	server := &http.Server{
		Handler: k.handler(e.Lab, name), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(ln, "", "") }()
	e.t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			e.t.Error(err)
		}
	})
	if err := e.AddKubernetes(lab.Kubernetes{Name: name, CA: k.ca, Addr: k.addr}); err != nil {
		e.t.Fatal(err)
	}
	return k
}

// kubeCert returns a CA and a certificate of it.
func kubeCert(t *testing.T, host string) (ca []byte, cert tls.Certificate) {
	t.Helper()
	made := func(serial int64, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "kubernetes"}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: parent == nil, KeyUsage: x509.KeyUsageDigitalSignature,
		}
		if parent == nil {
			parent, by, c.KeyUsage = c, key, x509.KeyUsageCertSign
		} else {
			c.DNSNames = []string{host}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return parsed, key
	}
	root, rootKey := made(1, nil, nil)
	leaf, key := made(2, root, rootKey)
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	return ca, tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

// handler answers what kubectl asks for its nodes, to callers with a token of EKS for the cluster.
func (k *kubeAPI) handler(l *lab.Lab, cluster string) http.Handler {
	answers := map[string]string{
		"/api":  `{"kind":"APIVersions","versions":["v1"]}`,
		"/apis": `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`,
		"/api/v1": `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"nodes","singularName":"node","namespaced":false,` +
			`"kind":"Node","verbs":["get","list"]}]}`,
		"/api/v1/nodes": `{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[{"kind":"Node",` +
			`"apiVersion":"v1","metadata":{"name":"ip-10-0-1-2"}}]}`,
	}
	const added = `{"type":"ADDED","object":{"kind":"Node","apiVersion":"v1","metadata":{"name":"ip-10-0-1-3","resourceVersion":"8"}}}`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		arn, err := l.VerifyClusterToken(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), cluster)
		k.mu.Lock()
		defer k.mu.Unlock()
		if err != nil {
			k.refused++
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401,"message":%q}`, err)
			return
		}
		k.callers = append(k.callers, arn)
		answer, ok := answers[r.URL.Path]
		if ok && r.URL.Query().Get("watch") != "" {
			answer = added
		}
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			answer = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`
		}
		_, _ = io.WriteString(w, answer)
	})
}

// seen returns the callers so far, and how many requests were refused.
func (k *kubeAPI) seen() (callers []string, refused int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.callers...), k.refused
}

// kube runs a client of Kubernetes with a kubeconfig.
func (e *labEnv) kube(file, program string, args ...string) (string, error) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, rig.Need(e.t, program), args...)
	// Without the lab's endpoint the AWS CLI signs requests to AWS's own, as it does for EKS.
	cmd.Env = append(append([]string(nil), e.env...), "KUBECONFIG="+file, "PATH="+os.Getenv("PATH"),
		"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true", "AWS_STS_REGIONAL_ENDPOINTS=regional")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// node is what kubectl prints of the API server's nodes.
const node = "node/ip-10-0-1-2\n"

// watched is what kubepeer prints: the list, and then an event of a watch.
const watched = node + "added node/ip-10-0-1-3\n"

// kubectl and client-go reach a private cluster by the context that bastion kubeconfig writes, also when the agent has ended since: its
// proxy comes back at the same port. The rest of the kubeconfig stays.
func TestKubeconfig(t *testing.T) {
	t.Parallel()
	rig.Need(t, "kubectl")
	e := startAgentLab(t, nil)
	k := e.addKube("prod")
	file := filepath.Join(t.TempDir(), "config")
	const own = "# mine\napiVersion: v1\nkind: Config\nclusters:\n- name: home # small\n  cluster: {server: https://home.example}\n" +
		"contexts: []\nusers: []\ncurrent-context: home\n"
	if err := os.WriteFile(file, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	r := e.must("kubeconfig", "eks:prod", "--alias", "p", "--kubeconfig", file, "-o", "json")
	var made struct{ Context, Cluster, Proxy_url, Server string }
	if err := json.Unmarshal([]byte(r.stdout), &made); err != nil || made.Context != "p" || !strings.HasSuffix(made.Cluster, ":cluster/prod") {
		t.Fatalf("%v: %s", err, r.stdout)
	}
	nodes := func(when string) {
		t.Helper()
		if out, err := e.kube(file, "kubectl", "get", "nodes", "-o", "name"); err != nil || out != node {
			t.Errorf("%s: %v, %s", when, err, out)
		}
	}
	nodes("at first")
	if out, err := e.kube(file, "kubepeer", "p"); err != nil || out != watched {
		t.Errorf("client-go: %v, %s", err, out)
	}
	if again := e.must("kubeconfig", "eks:prod", "--alias", "p", "--kubeconfig", file, "-o", "json"); again.stdout != r.stdout {
		t.Errorf("again: %s, was %s", again.stdout, r.stdout)
	}
	e.must("agent", "stop")
	nodes("after the end of the agent")
	callers, refused := k.seen()
	if len(callers) == 0 || refused != 0 || callers[0] != "arn:aws:iam::000000000000:user/lab" {
		t.Errorf("the API server saw %v, and refused %d", callers, refused)
	}
	e.must("stop", "kubernetes")
	if out, err := e.kube(file, "kubectl", "get", "nodes"); err == nil || !strings.Contains(out, "bastion kubeconfig eks:prod") {
		t.Errorf("without the proxy: %v, %s", err, out)
	}
	e.must("kubeconfig", "eks:prod", "--alias", "p", "--kubeconfig", file)
	nodes("with another proxy")
	e.must("kubeconfig", "eks:prod", "--alias", "p", "--kubeconfig", file, "--aws-token")
	if text := string(mustRead(t, file)); !strings.Contains(text, "get-token") || strings.Contains(text, "eks-token") {
		t.Errorf("with the AWS CLI's token the kubeconfig is\n%s", text)
	}
	rig.Need(t, "aws")
	nodes("with the AWS CLI's token")
	if r := e.must("kubeconfig", "eks:prod", "--remove", "--kubeconfig", file); !strings.Contains(r.stdout, made.Cluster) {
		t.Errorf("removed: %s", r.stdout)
	}
	want := strings.Replace(own, "current-context: home", `current-context: ""`, 1)
	if got := string(mustRead(t, file)); got != want {
		t.Errorf("the kubeconfig is\n%s\nwant\n%s", got, want)
	}
	if r := e.run(nil, "kubeconfig", "eks:prod", "--remove", "--kubeconfig", file); r.code != 3 {
		t.Errorf("removed again: exit code %d, %s", r.code, r.stderr)
	}
	if r := e.run(nil, "kubeconfig", "eks:none", "--kubeconfig", file); r.code != 3 || string(mustRead(t, file)) != want {
		t.Errorf("a cluster that does not exist: exit code %d, %s", r.code, r.stderr)
	}
}

// Clusters of the same name in two environments have a context each, a proxy each, and the credentials of their own account.
func TestKubeconfigEnvironments(t *testing.T) {
	t.Parallel()
	kubectl := rig.Need(t, "kubectl")
	o := startOrganization(t, lab.IdentityConfig{})
	servers := make(map[string]*kubeAPI)
	for _, env := range []string{"dev", "prod"} {
		servers[env] = (&labEnv{Lab: o.labs[env], t: t}).addKube("main")
	}
	file := filepath.Join(t.TempDir(), "config")
	o.must("kubeconfig", "dev/eks:main", "--kubeconfig", file)
	if r := o.must("kubeconfig", "main", "-e", "prod", "--kubeconfig", file); !strings.HasPrefix(r.stdout, "the context prod/main in ") {
		t.Errorf("%s", r.stdout)
	}
	accounts := map[string]string{"dev": accountWork, "prod": accountProd}
	for env, account := range accounts {
		if out, err := o.kube(file, "kubectl", "--context", env+"/main", "get", "nodes", "-o", "name"); err != nil || out != node {
			t.Errorf("%s: %v, %s", env, err, out)
		}
		if callers, refused := servers[env].seen(); len(callers) == 0 || !strings.Contains(callers[0], ":"+account+":") || refused > 0 {
			t.Errorf("the API server of %s saw %v, and refused %d", env, callers, refused)
		}
	}
	r := o.run(nil, "exec", "dev/eks:main", "prod/eks:main", "--", "sh", "-c",
		kubectl+` get nodes -o name && `+kubectl+` --context prod/main get nodes -o name && `+kubectl+` config current-context`)
	if r.code != 0 || r.stdout != node+node+"dev/main\n" {
		t.Errorf("exec: exit code %d, %q\n%s", r.code, r.stdout, r.stderr)
	}

	if r := o.run(nil, "kubeconfig", "eks:main", "--remove", "--kubeconfig", file); r.code != 2 || !strings.Contains(r.stderr, "several") {
		t.Errorf("remove one of two: exit code %d\n%s", r.code, r.stderr)
	}
	o.must("kubeconfig", "prod/eks:main", "--remove", "--kubeconfig", file)
	if text := string(mustRead(t, file)); strings.Contains(text, accountProd) || !strings.Contains(text, "dev/main") {
		t.Errorf("without prod's cluster the kubeconfig is\n%s", text)
	}
	o.must("kubeconfig", "eks:main", "--remove", "--kubeconfig", file)
	if text := string(mustRead(t, file)); strings.Contains(text, "main") {
		t.Errorf("without both the kubeconfig is\n%s", text)
	}
}

// The program of bastion exec has a kubeconfig for its time, with the agent and without it, beside the variables of a database.
func TestExecKubectl(t *testing.T) {
	t.Parallel()
	kubectl := rig.Need(t, "kubectl")
	for name, start := range map[string]func(*testing.T, func(*lab.Config)) *labEnv{"agent": startAgentLab, "alone": startLab} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, nil)
			k := e.addKube("prod")
			r := e.run(nil, "exec", "eks:prod", "rds:orders", "--", "sh", "-c",
				kubectl+` get nodes -o name && echo "$PGPORT $KUBECONFIG $KUBE_CONFIG_PATH $HTTPS_PROXY" && stat -c %a "$KUBECONFIG"`)
			lines := strings.Split(r.stdout, "\n")
			if r.code != 0 || len(lines) != 4 || lines[0] != "node/ip-10-0-1-2" || lines[2] != "600" {
				t.Fatalf("exit code %d, %q\n%s", r.code, r.stdout, r.stderr)
			}
			words := strings.Split(lines[1], " ")
			if len(words) != 4 || words[0] == "" || words[1] != words[2] || words[3] != "" {
				t.Errorf("the variables are %q", words)
			}
			if _, err := os.Stat(words[1]); err == nil {
				t.Error("the kubeconfig stays")
			}
			if _, refused := k.seen(); refused != 0 {
				t.Errorf("%d requests are refused", refused)
			}
			if r := e.run(nil, "exec", "eks:prod", "--", rig.Need(t, "kubepeer")); r.code != 0 || r.stdout != watched {
				t.Errorf("client-go: exit code %d, %q\n%s", r.code, r.stdout, r.stderr)
			}
			r = e.run(nil, "exec", "--https-proxy", "eks:prod", "--", "sh", "-c", kubectl+` get nodes -o name && echo "$HTTPS_PROXY"`)
			if lines := strings.Split(r.stdout, "\n"); r.code != 0 || len(lines) != 3 || !strings.HasPrefix(lines[1], "http://127.0.0.1:") {
				t.Errorf("with HTTPS_PROXY: exit code %d, %q\n%s", r.code, r.stdout, r.stderr)
			}
			if r := e.run(nil, "exec", "--https-proxy", "rds:orders", "--", "true"); r.code != 2 {
				t.Errorf("--https-proxy without a cluster: exit code %d, %s", r.code, r.stderr)
			}
			if name == "alone" {
				e.noSessions()
			}
		})
	}
}

// The credential has the version that the client asks for.
func TestEKSToken(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	for info, want := range map[string]string{
		"": kubeconfig.ExecAPI,
		`{"apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false}}`: "client.authentication.k8s.io/v1",
		`{"apiVersion":"client.authentication.k8s.io/v2"}`:                              kubeconfig.ExecAPI,
		"{": kubeconfig.ExecAPI,
	} {
		r := e.run([]string{"KUBERNETES_EXEC_INFO=" + info}, "eks-token", "prod")
		var c struct {
			Kind, APIVersion string
			Status           struct {
				ExpirationTimestamp time.Time
				Token               string
			}
		}
		if err := json.Unmarshal([]byte(r.stdout), &c); err != nil || c.Kind != "ExecCredential" || c.APIVersion != want {
			t.Errorf("%s: %v in %q\n%s", info, err, r.stdout, r.stderr)
		}
		if arn, err := e.VerifyClusterToken(c.Status.Token, "prod"); err != nil || !strings.HasSuffix(arn, ":user/lab") {
			t.Errorf("%s: %s, %v", info, arn, err)
		}
		if left := time.Until(c.Status.ExpirationTimestamp); left < 13*time.Minute || left > 14*time.Minute {
			t.Errorf("%s: good for %s", info, left)
		}
	}
	for _, args := range [][]string{
		{"eks-token", "a b"},
		{"eks-token", ""},
		{"kubeconfig", "rds:orders"},
		{"kubeconfig", "eks:prod:8443"},
		{"kubeconfig", "eks:prod", "--no-agent"},
		{"kubeconfig", "eks:prod", "--proxy-auth-file", "/dev/null"},
		{"exec", "eks:prod", "--hosts", "--", "true"},
		{"exec", "--env", "X=eks:prod", "eks:prod", "--", "true"},
	} {
		if r := e.run(nil, args...); r.code != 2 || r.stdout != "" {
			t.Errorf("%v: exit code %d, %q, %s", args, r.code, r.stdout, r.stderr)
		}
	}
	r := e.run(nil, "eks-token", "prod", "--proxy", "127.0.0.1:1")
	if r.code != 3 || !strings.Contains(r.stderr, "bastion kubeconfig eks:prod") {
		t.Errorf("without the proxy: exit code %d, %s", r.code, r.stderr)
	}
}
