package kubernetes

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/kubeconfig"
	"github.com/bastion-ssm/bastion/targets"
)

// kubeProxy is the name of the proxy that the agent keeps for kubectl. Its port is saved with it, and so is the same after a restart.
const kubeProxy = "kubernetes"

// kubeconfigOptions are the options of kubeconfig that are no settings.
type kubeconfigOptions struct {
	alias, file string
	remove      bool
	awsToken    bool
	yes         bool
}

func (a *program) kubeconfigCommand() *cli.Command {
	var o kubeconfigOptions
	return &cli.Command{
		Name:    "kubeconfig",
		Summary: "let kubectl and helm reach an EKS cluster's private endpoint",
		Args:    "eks:NAME", MinArgs: 1, MaxArgs: 1,
		About: []cli.Passage{
			cli.Para(`Writes a context for the cluster into the kubeconfig, as aws eks update-kubeconfig does, and makes it the current one. Its
				proxy-url is a proxy of the agent, on a local port that stays the same. bastion eks-token signs the user in.`),
			cli.Para(`The proxy stays until bastion stop kubernetes. When the agent does not run, the next kubectl starts it again. All clusters
				of a profile and a region share it. The rest of the kubeconfig keeps its text.`),
			cli.Para(`--remove takes the cluster, its user and its contexts out of the file again. It asks nothing of AWS.`),
		},
		Examples: []string{
			"bastion kubeconfig eks:prod --alias prod",
			"kubectl --context prod get nodes",
			"bastion kubeconfig eks:prod --remove",
		},
		Flags: []cli.Option{
			cli.Text(&o.alias, "NAME", "name of the context (default: ENV/NAME, or the cluster's ARN)", "alias"),
			cli.Text(&o.file, "FILE", "kubeconfig (default: as kubectl, by KUBECONFIG or ~/.kube/config)", "kubeconfig"),
			cli.Switch(&o.remove, "remove the cluster from the kubeconfig", "remove"),
			cli.Switch(&o.awsToken, "sign in by the AWS CLI (aws eks get-token), not by bastion eks-token", "aws-token"),
			invocation.YesFlag(&o.yes),
		},
		Settings: []string{config.GroupAWS, config.GroupLink, config.GroupOutput},
		Complete: func([]string) []cli.Candidate { return a.complete() },
		Run: a.With(func(ctx context.Context, s config.Settings, args []string) error {
			return a.kubeconfig(ctx, s, args[0], o)
		}),
	}
}

// kubeconfig runs `bastion kubeconfig`.
func (a *program) kubeconfig(ctx context.Context, s config.Settings, text string, o kubeconfigOptions) error {
	if o.remove {
		return a.removeKubeconfig(ctx, s, text, o)
	}
	groups, _, err := a.Groups(ctx, "kubeconfig", s, []string{clusterTarget(s, text)}, nil)
	if err != nil {
		return err
	}
	s = groups[0].Settings
	switch item := request.Items(groups)[0]; {
	case !isCluster(item):
		return fail.Usagef("write eks:NAME", "%s is not an EKS cluster", text)
	case item.Pair.Target.Port != 0:
		return fail.Usagef("leave out the port", "%s: an EKS cluster has one port, 443", text)
	case s.Proxy.AuthFile != "":
		return errProxyPassword()
	case s.Local.NoAgent:
		return fail.Usagef("leave out --no-agent (BASTION_NO_AGENT), or run one command: bastion exec "+text+" -- kubectl get nodes",
			"the proxy of a kubeconfig is the agent's")
	}
	self, err := tokenMaker(a.Invocation, o.awsToken)
	if err != nil {
		return err
	}
	if err := a.Confirm(ctx, o.yes, s); err != nil {
		return err
	}
	endpoints, _, err := a.LookUp(ctx, "kubeconfig", groups, "")
	if err != nil {
		return err
	}
	e, err := found(a.Invocation, s, endpoints[0])
	if err != nil {
		return err
	}
	path, err := kubeconfigPath(o.file, func(text []byte) bool { return kubeconfig.Has(text, e.ARN) })
	if err != nil {
		return err
	}
	w := forwarding.Wanted{
		Command: "kubeconfig", Named: true,
		Groups: request.One(s, api.ForwardRequest{Kind: api.KindProxy, Name: kubeProxy, Listen: ":"}),
	}
	proxies, err := a.OpenDetached(ctx, s, w)
	if err != nil {
		return err
	}
	c := e.entry(proxies[0].Listen)
	c.Context = cmp.Or(o.alias, e.context(e.ARN))
	c.Exec = e.tokenProgram(self, proxies[0].Listen, o.awsToken)
	err = kubeconfig.Update(ctx, path, func(text []byte) ([]byte, error) { return kubeconfig.Merge(text, c) })
	if err != nil {
		return err
	}
	return a.Outcome(s, map[string]string{
		"kubeconfig": path, "context": c.Context, "cluster": e.ARN, "proxy_url": c.Proxy, "server": c.Server,
	}, fmt.Sprintf("the context %s in %s leads to %s by the proxy %s", c.Context, path, c.Server, c.Proxy))
}

// clusterTarget is the target that a text means here: the name of a cluster needs no eks: before it.
func clusterTarget(s config.Settings, text string) string {
	environment, name := targets.CutEnvironment(text)
	spec, err := targets.Parse(name)
	if _, ok := s.Targets[name]; err == nil && !ok && spec.Kind == targets.Name && spec.Port == 0 {
		return targets.InEnvironment(environment, "eks:"+name)
	}
	return text
}

// removeKubeconfig takes a cluster out of the kubeconfig.
func (a *program) removeKubeconfig(ctx context.Context, s config.Settings, text string, o kubeconfigOptions) error {
	s, name, err := a.Scoped(s, text)
	if err != nil {
		return err
	}
	if t, ok := s.Targets[name]; ok {
		name = t.Spec
	}
	name = strings.TrimPrefix(name, "eks:")
	named := func(text []byte) ([]string, error) {
		if own := kubeconfig.ClusterOf(text, targets.InEnvironment(s.Environment, name)); s.Environment != "" && own != "" {
			return []string{own}, nil // of the context that kubeconfig makes for the environment
		}
		return kubeconfig.Named(text, name, s.AWS.Region)
	}
	path, err := kubeconfigPath(o.file, func(text []byte) bool {
		found, err := named(text)
		return err == nil && len(found) > 0
	})
	if err != nil {
		return err
	}
	var found []string
	err = kubeconfig.Update(ctx, path, func(text []byte) (out []byte, err error) {
		if found, err = named(text); err != nil || len(found) != 1 {
			return text, err
		}
		out, _, err = kubeconfig.Remove(text, found[0])
		return out, err
	})
	op := "remove the cluster " + name
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return fail.New(fail.NoTarget, op, fmt.Errorf("%s has no such cluster", path),
			"name its file: --kubeconfig FILE; kubectl config get-clusters lists the clusters")
	case len(found) > 1:
		return fail.New(fail.Usage, op, fmt.Errorf("%s has several of the name: %s", path, strings.Join(found, ", ")),
			"name one by its ARN: bastion kubeconfig "+found[0]+" --remove")
	}
	removed := found[0]
	return a.Outcome(s, map[string]string{"kubeconfig": path, "cluster": removed}, removed+" is removed from "+path)
}

// kubeconfigPath returns the file to edit; has reports whether a text has the cluster.
func kubeconfigPath(file string, has func(text []byte) bool) (string, error) {
	if file != "" {
		return filepath.Abs(file)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	return kubeconfig.Path(os.Getenv("KUBECONFIG"), home, has)
}
