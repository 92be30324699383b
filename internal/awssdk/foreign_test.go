package awssdk

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// A page in place of AWS's answer is reported as such, for every protocol, and the SDK does not retry a refusal.
func TestPages(t *testing.T) {
	for _, tt := range []struct {
		status     int
		kind, body string
		class      awsanswer.Class
		said, next string
	}{
		{403, "text/html", "<html><head><title>Access\n Denied &ndash; Zone</title></head>", awsanswer.Foreign, `"Access Denied – Zone", Server: Wall/1`, "firewall"},
		{403, "text/html; charset=utf-8", "<!DOCTYPE html><p>a<br>b&nbsp;", awsanswer.Foreign, "HTTP 403", "firewall"},
		{200, "text/html", "<html><title>Welcome</title>Sign in</html>", awsanswer.Foreign, `"Welcome"`, "firewall"},
		{302, "text/html", "", awsanswer.Foreign, "HTTP 302", "sign in to the network"},
		{407, "text/html", "", awsanswer.Foreign, "HTTP 407", "USER:PASSWORD"},
		{451, "text/plain", "blocked", awsanswer.Foreign, "HTTP 451", "firewall"},
		{403, "text/plain", `"cut`, awsanswer.Foreign, "HTTP 403", "firewall"},
		{403, "text/plain", "", awsanswer.Foreign, "HTTP 403", "firewall"},
		{503, "text/html", "<html><title>Bad\x1b[31m gateway</title>", awsanswer.Transient, "HTTP 503", "HTTPS_PROXY"},
	} {
		t.Run(fmt.Sprint(tt.status, tt.kind, tt.body), func(t *testing.T) {
			var requests atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				w.Header().Set("Content-Type", tt.kind)
				w.Header().Set("Server", "Wall/1")
				w.WriteHeader(tt.status)
				_, _ = fmt.Fprint(w, tt.body)
			}))
			defer server.Close()
			awsEnv(t, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL="+server.URL,
				"AWS_MAX_ATTEMPTS=2")
			cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			for name, call := range map[string]func() error{
				"JSON": func() error {
					target := "i-1"
					_, err := ssm.NewFromConfig(cfg).StartSession(t.Context(), &ssm.StartSessionInput{Target: &target})
					return err
				},
				"query": func() error {
					_, err := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
					return err
				},
				"EC2": func() error {
					_, err := ec2.NewFromConfig(cfg).DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
					return err
				},
				"RDS": func() error {
					_, err := rds.NewFromConfig(cfg).DescribeDBInstances(t.Context(), &rds.DescribeDBInstancesInput{})
					return err
				},
			} {
				requests.Store(0)
				err := fail.AWS(fail.Other, "ask", "x:Y", call())
				if got := awsanswer.ClassOf(err); got != tt.class || !strings.Contains(fmt.Sprint(err), tt.said) || !strings.Contains(fail.NextOf(err), tt.next) {
					t.Errorf("%s: %v, %v, next step %q", name, got, err, fail.NextOf(err))
				}
				if strings.Contains(fmt.Sprint(err), "\x1b") {
					t.Errorf("%s: %q has the page's control characters", name, err)
				}
				if n := requests.Load(); tt.class == awsanswer.Foreign && n != 1 {
					t.Errorf("%s: %d requests", name, n)
				}
			}
		})
	}
}

// JSON is an answer of AWS's whatever label it has.
func TestMislabelledAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprint(w, `{"taskArns":["arn:t"]}`)
	}))
	defer server.Close()
	awsEnv(t, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL="+server.URL)
	cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	out, err := ecs.NewFromConfig(cfg).ListTasks(t.Context(), &ecs.ListTasksInput{})
	if err != nil || len(out.TaskArns) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
}

// A proxy's answer to CONNECT is reported as such.
func TestProxyRefuses(t *testing.T) {
	for status, next := range map[int]string{403: "firewall", 407: "USER:PASSWORD"} {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodConnect {
				t.Errorf("%s instead of CONNECT", r.Method)
			}
			w.Header().Set("Server", "squid")
			w.WriteHeader(status)
		}))
		awsEnv(t, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_REGION=eu-central-1")
		cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		// Go reads the variables of proxies once a process.
		client := httpClient().WithTransportOptions(func(transport *http.Transport) {
			transport.Proxy = func(r *http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
		})
		cfg.HTTPClient = client
		_, err = sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		err = fail.AWS(fail.Other, "ask", "sts:GetCallerIdentity", err)
		want := fmt.Sprintf("HTTP %d in AWS's place: the proxy %s refused the connection, Server: squid", status, proxy.Listener.Addr())
		if !strings.Contains(fmt.Sprint(err), want) || !strings.Contains(fail.NextOf(err), next) {
			t.Errorf("%v, next step %q", err, fail.NextOf(err))
		}
		client.GetTransport().CloseIdleConnections()
		proxy.Close()
	}
}
