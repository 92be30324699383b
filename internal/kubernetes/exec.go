package kubernetes

import (
	"cmp"
	"os"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/kubeconfig"
	"github.com/bastion-ssm/bastion/targets"
)

// Environment writes a kubeconfig for the clusters whose proxies are open, and returns the variables that name it. remove removes it.
func Environment(in *invocation.Invocation, s config.Settings, found []Cluster, proxies []api.Forward, httpsProxy bool) (
	env []string, remove func() error, err error,
) {
	if len(found) == 0 {
		return nil, func() error { return nil }, nil
	}
	self, err := tokenMaker(in, false)
	if err != nil {
		return nil, nil, err
	}
	all := make([]kubeconfig.Cluster, len(found))
	for i, e := range found {
		all[i] = e.entry(proxies[i].Listen)
		all[i].Context = e.context(e.name)
		all[i].Exec = e.tokenProgram(self, "", false)
		if httpsProxy { // the program's; what makes the token needs the user's own way to AWS
			for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
				all[i].Exec.Env = append(all[i].Exec.Env, [2]string{name, os.Getenv(name)})
			}
		}
	}
	text, err := kubeconfig.Document(all...)
	if err != nil {
		return nil, nil, err
	}
	path, remove, err := dirs.Temporary(s.Local.RuntimeDir, "kubeconfig-", "", text)
	if err != nil {
		return nil, nil, err
	}
	env = []string{"KUBECONFIG=" + path, "KUBE_CONFIG_PATH=" + path}
	if httpsProxy {
		env = append(env, "HTTPS_PROXY="+all[0].Proxy, "https_proxy="+all[0].Proxy)
	}
	return env, remove, nil
}

// Split returns the places of the EKS clusters among exec's targets, and those of the others. The clients of a cluster need a
// proxy, where those of the others need a port.
func Split(items []request.Item, httpsProxy bool) (clusters, others []int, err error) {
	for i, item := range items {
		switch {
		case !isCluster(item):
			others = append(others, i)
		case item.Settings.Proxy.AuthFile != "":
			return nil, nil, errProxyPassword()
		case item.Settings.Forward.Hosts:
			return nil, nil, fail.Usagef("leave out --hosts", "--hosts is not for EKS clusters: their clients use a proxy")
		default:
			clusters = append(clusters, i)
		}
	}
	if len(clusters) == 0 && httpsProxy {
		return nil, nil, fail.Usagef("add eks:NAME, or leave it out", "--https-proxy is for EKS clusters, and no target is one")
	}
	return clusters, others, nil
}

// Find reads what AWS says of the clusters, and has their requests open proxies.
func Find(in *invocation.Invocation, items []request.Item, endpoints []targets.Endpoint, at []int) ([]Cluster, error) {
	var all []Cluster
	for _, i := range at {
		e, err := found(in, items[i].Settings, endpoints[i])
		if err != nil {
			return nil, err
		}
		all = append(all, e)
		*items[i].Request = api.ForwardRequest{Kind: api.KindProxy, Listen: cmp.Or(items[i].Pair.Local.String(), ":")}
	}
	return all, nil
}
