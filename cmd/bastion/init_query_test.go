package main

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/rds"

	"github.com/bastion-ssm/bastion/e2e/recorded"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// motoAccount is the account that moto's resources are in.
const motoAccount = "123456789012"

// ofMoto reports whether moto answers a request in an account that has moto's resources and the lab's tasks. EC2 knows of the tasks'
// network interfaces in the lab only.
func ofMoto(service string, body []byte) bool {
	if service == "ec2" {
		return !bytes.Contains(body, []byte("DescribeNetworkInterfaces"))
	}
	return slices.Contains([]string{"ce", "cloudformation", "ecr", "elasticache", "iam", "kms", "logs", "rds"}, service)
}

// halves is one endpoint for an account whose resources moto has, and whose tasks and sessions the lab has. The names of databases are the
// lab's, where they lead somewhere.
func halves(t *testing.T, moto, tasks string) string {
	t.Helper()
	parse := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	resources, rest := parse(moto), parse(tasks)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			to := rest
			body, _ := io.ReadAll(r.In.Body)
			if ofMoto(recorded.Service(r.In), body) {
				to = resources
			}
			r.SetURL(to)
			r.Out.Host = r.In.Host // what is signed
			r.Out.Body, r.Out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		},
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			body = bytes.ReplaceAll(body, []byte(".aaaaaaaaaa.eu-central-1.rds."), []byte(".abc123.eu-central-1.rds."))
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return err
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

// ordersInMoto makes the lab's database orders in moto's default VPC, and returns that VPC's subnets.
func ordersInMoto(t *testing.T, moto string, e *labEnv) []string {
	t.Helper()
	cfg := motoConfig(t, moto)
	network := ec2.NewFromConfig(cfg)
	subnets, err := network.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
	if err != nil {
		t.Fatal(err)
	}
	group, err := network.CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{
		VpcId: subnets.Subnets[0].VpcId, GroupName: aws.String("orders"), Description: aws.String("orders"),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, text, err := net.SplitHostPort(e.Databases()[0].Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rds.NewFromConfig(cfg).CreateDBInstance(t.Context(), &rds.CreateDBInstanceInput{
		DBInstanceIdentifier: aws.String("orders"), DBInstanceClass: aws.String("db.t4g.micro"), Engine: aws.String("postgres"),
		Port: aws.Int32(int32(port)), VpcSecurityGroupIds: []string{*group.GroupId}, AllocatedStorage: aws.Int32(20),
		MasterUsername: aws.String("app"), MasterUserPassword: aws.String("password"),
	}); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, s := range subnets.Subnets {
		ids = append(ids, *s.SubnetId)
	}
	return ids
}

// One command leads from an account without anything to a bastion through which the database has answered; a query follows by what the
// command has written, and destroy leaves nothing that runs. CloudFormation, EC2, RDS and ECR are moto's, tasks and sessions the lab's.
func TestFromAnEmptyAccountToAQuery(t *testing.T) {
	psql := rig.Need(t, "psql")
	program, err := bastiond()
	if err != nil {
		t.Fatal(err)
	}
	e := startLab(t, func(c *lab.Config) { c.Account, c.Postgres = motoAccount, vpc.Real })
	moto := cloudFormation(t, rig.Moto(t))
	for _, id := range ordersInMoto(t, moto, e) {
		e.AddSubnet(lab.Subnet{ID: id, CIDR: "172.31.0.0/20", Zone: lab.Region + "a"})
	}
	e.AddSecurityGroup(lab.SecurityGroup{ID: "sg-made", Name: "bastion"})
	e.here(nil, "down") // sets the environment
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("AWS_ENDPOINT_URL", halves(t, moto, e.URL()))
	t.Setenv("AWS_PROFILE", "admin")
	t.Setenv("AWS_MAX_ATTEMPTS", "2") // moto answers what it lacks with errors that are tried again
	transport := anyRegistry(t)
	bastion := func(args ...string) result {
		t.Helper()
		return inProcess(t.Context(), t, transport, args...)
	}

	r := bastion("init", "--bastiond", "amd64="+program, "--change-security-groups", "yes", "--yes")
	for _, want := range []string{"wrote bastion.yaml", "a bastion runs as a test", "rds:orders answers through it"} {
		if r.code != 0 || !strings.Contains(r.stdout, want) {
			t.Fatalf("exit code %d, it does not say %q\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	running := func() (n int) {
		for _, task := range e.Tasks() {
			if task.LastStatus == "RUNNING" {
				n++
			}
		}
		return n
	}
	if n := running(); n != 1 {
		t.Errorf("%d tasks run after init, want 1", n)
	}

	t.Setenv("BASTION_CONFIG", filepath.Join(dir, config.FileName))
	t.Setenv("PGPASSWORD", "lab")
	r = e.run(os.Environ(), "exec", "--no-agent", "orders", "--", psql, "-X", "-At", "-U", "app", "-d", "orders", "-c", "select count(*) from orders")
	if n, err := strconv.Atoi(strings.TrimSpace(r.stdout)); r.code != 0 || err != nil || n == 0 {
		t.Errorf("the query: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if n := running(); n != 1 {
		t.Errorf("%d tasks run after the query, want the one that init started", n)
	}

	if r = bastion("destroy", "--yes", "--audit", "delete"); r.code != 0 {
		t.Errorf("destroy: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	eventually(t, "no task runs", func() bool { return running() == 0 })
}
