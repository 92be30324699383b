package kubernetes

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/kubeconfig"
	"github.com/bastion-ssm/bastion/targets"
)

// tokenMaker returns the path of the program that prints tokens: this one, or the AWS CLI.
func tokenMaker(in *invocation.Invocation, awsCLI bool) (string, error) {
	if !awsCLI {
		return in.Program()
	}
	path, err := exec.LookPath("aws")
	if err != nil {
		return "", fail.New(fail.Usage, "--aws-token", err, "install the AWS CLI, or leave out --aws-token")
	}
	return path, nil
}

// Cluster is an EKS cluster with the settings that it was found with.
type Cluster struct {
	targets.Endpoint

	settings     config.Settings
	name, region string
}

// isCluster reports whether an item's target is an EKS cluster.
func isCluster(item request.Item) bool {
	spec, err := targets.Parse(item.Request.Target)
	return err == nil && spec.Kind == targets.EKS
}

// errProxyPassword refuses a proxy with a password for a kubeconfig.
func errProxyPassword() error {
	return fail.Usagef("leave it out for this command: --proxy-auth-file ''",
		"with proxy_auth_file the kubeconfig would have the proxy's password")
}

// found reads what AWS says of a cluster.
func found(in *invocation.Invocation, s config.Settings, e targets.Endpoint) (Cluster, error) {
	parts := strings.SplitN(e.ARN, ":", 6) // arn, partition, service, region, account, resource
	name, ok := strings.CutPrefix(parts[len(parts)-1], "cluster/")
	if len(parts) != 6 || !ok || e.CA == "" {
		return Cluster{}, fail.New(fail.Other, "look up "+e.Name, fmt.Errorf("AWS names no ARN or no CA of the cluster (%q)", e.ARN),
			"wait until the cluster is active")
	}
	for _, note := range []string{e.StatusNote, e.Note} {
		if note != "" {
			in.Note(s, "eks:%s: %s", name, note)
		}
	}
	return Cluster{e, s, name, parts[3]}, nil
}

// entry describes the cluster to its clients, which reach it by a proxy.
func (e Cluster) entry(proxy string) kubeconfig.Cluster {
	return kubeconfig.Cluster{Name: e.ARN, Server: "https://" + e.Host, CA: []byte(e.CA), Proxy: forwarding.NewProxyInfo(proxy, "").HTTP}
}

// context is the name of the cluster's context: ENV/NAME if an environment counts, else the given one.
func (e Cluster) context(otherwise string) string {
	if e.settings.Environment == "" {
		return otherwise
	}
	return targets.InEnvironment(e.settings.Environment, e.name)
}

// tokenProgram is the program that clients run for a token. proxy is the agent's proxy; "": one that lives as long as the client.
func (e Cluster) tokenProgram(program, proxy string, awsCLI bool) kubeconfig.Exec {
	profile := cmp.Or(e.settings.AWS.Profile, os.Getenv("AWS_PROFILE"), os.Getenv("AWS_DEFAULT_PROFILE"))
	if awsCLI {
		args := []string{"--region", e.region, "eks", "get-token", "--cluster-name", e.name, "--output", "json"}
		x := kubeconfig.Exec{Command: program, Args: args}
		if profile != "" {
			x.Env = [][2]string{{"AWS_PROFILE", profile}}
		}
		return x
	}
	x := kubeconfig.Exec{Command: program, Args: []string{"eks-token", e.name, "--region", e.region}}
	if profile != "" {
		x.Args = append(x.Args, "--profile", profile)
	}
	if proxy != "" {
		x.Args = append(x.Args, "--proxy", proxy)
	}
	return x
}
