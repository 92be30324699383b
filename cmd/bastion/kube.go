package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/execenv"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/kubeconfig"
	"github.com/bastion-ssm/bastion/internal/sleep"
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

func (a *app) kubeconfigCommand() *cli.Command {
	var o kubeconfigOptions
	return &cli.Command{
		Name:    "kubeconfig",
		Summary: "let kubectl and helm reach an EKS cluster's private endpoint",
		Group:   groupConnect,
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
		Complete: func([]string) []cli.Candidate { return a.targetCandidates() },
		Run: a.With(func(ctx context.Context, s config.Settings, args []string) error {
			return a.kubeconfig(ctx, s, args[0], o)
		}),
	}
}

// eksTokenOptions are the options of eks-token that are no settings.
type eksTokenOptions struct{ proxy string }

func (a *app) eksTokenCommand() *cli.Command {
	var o eksTokenOptions
	return &cli.Command{
		Name:    "eks-token",
		Summary: "print a token for an EKS cluster (kubectl's exec plugin)",
		Group:   groupConnect,
		Args:    "NAME", MinArgs: 1, MaxArgs: 1,
		About: []cli.Passage{
			cli.Para(`Prints an ExecCredential with a token for the cluster, valid for 14 minutes, as aws eks get-token does. kubectl, helm and
				client-go run it by the kubeconfig that bastion kubeconfig writes. Treat its output as a password.`),
			cli.Para("With --proxy it first sees to it that the agent runs and has its proxy at that address."),
		},
		Examples: []string{"bastion eks-token prod --region eu-central-1"},
		Flags:    []cli.Option{cli.Text(&o.proxy, "ADDR", "address of the agent's proxy in the kubeconfig", "proxy")},
		Settings: invocation.CommonSettings,
		Run: a.With(func(ctx context.Context, s config.Settings, args []string) error {
			return a.eksToken(ctx, s, args[0], o)
		}),
	}
}

// kubeconfig runs `bastion kubeconfig`.
func (a *app) kubeconfig(ctx context.Context, s config.Settings, text string, o kubeconfigOptions) error {
	if o.remove {
		return a.removeKubeconfig(ctx, s, text, o)
	}
	groups, _, err := request.Parse([]string{clusterTarget(s, text)}, nil, s, a.SettingsOf)
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
	self, err := a.tokenMaker(o.awsToken)
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
	e, err := a.foundCluster(s, endpoints[0])
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
func (a *app) removeKubeconfig(ctx context.Context, s config.Settings, text string, o kubeconfigOptions) error {
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

// tokenMaker returns the path of the program that prints tokens: this one, or the AWS CLI.
func (a *app) tokenMaker(awsCLI bool) (string, error) {
	if !awsCLI {
		return a.Program()
	}
	path, err := exec.LookPath("aws")
	if err != nil {
		return "", fail.New(fail.Usage, "--aws-token", err, "install the AWS CLI, or leave out --aws-token")
	}
	return path, nil
}

// foundCluster is an EKS cluster with the settings that it was found with.
type foundCluster struct {
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

// foundCluster reads what AWS says of a cluster.
func (a *app) foundCluster(s config.Settings, e targets.Endpoint) (foundCluster, error) {
	parts := strings.SplitN(e.ARN, ":", 6) // arn, partition, service, region, account, resource
	name, ok := strings.CutPrefix(parts[len(parts)-1], "cluster/")
	if len(parts) != 6 || !ok || e.CA == "" {
		return foundCluster{}, fail.New(fail.Other, "look up "+e.Name, fmt.Errorf("AWS names no ARN or no CA of the cluster (%q)", e.ARN),
			"wait until the cluster is active")
	}
	for _, note := range []string{e.StatusNote, e.Note} {
		if note != "" {
			a.Note(s, "eks:%s: %s", name, note)
		}
	}
	return foundCluster{e, s, name, parts[3]}, nil
}

// entry describes the cluster to its clients, which reach it by a proxy.
func (e foundCluster) entry(proxy string) kubeconfig.Cluster {
	return kubeconfig.Cluster{Name: e.ARN, Server: "https://" + e.Host, CA: []byte(e.CA), Proxy: forwarding.NewProxyInfo(proxy, "").HTTP}
}

// context is the name of the cluster's context: ENV/NAME if an environment counts, else the given one.
func (e foundCluster) context(otherwise string) string {
	if e.settings.Environment == "" {
		return otherwise
	}
	return targets.InEnvironment(e.settings.Environment, e.name)
}

// tokenProgram is the program that clients run for a token. proxy is the agent's proxy; "": one that lives as long as the client.
func (e foundCluster) tokenProgram(program, proxy string, awsCLI bool) kubeconfig.Exec {
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

// eksToken runs `bastion eks-token`.
func (a *app) eksToken(ctx context.Context, s config.Settings, name string, o eksTokenOptions) error {
	name = strings.TrimPrefix(name, "eks:")
	if !targets.ValidClusterName(name) {
		return fail.Usagef("write the cluster's name", "%q is not the name of an EKS cluster", name)
	}
	if o.proxy != "" {
		if err := a.ensureKubeProxy(ctx, s, o.proxy, name); err != nil {
			return err
		}
	}
	run, err := a.Open(ctx, "eks-token", s)
	if err != nil {
		return err
	}
	defer run.Close()
	bound, cancel := invocation.Bounded(ctx, s)
	defer cancel()
	token, expires, err := run.Access.ClusterToken(bound, name)
	if err != nil {
		return err
	}
	type status struct {
		Expires time.Time `json:"expirationTimestamp"`
		Token   string    `json:"token"`
	}
	return a.PrintLine(struct {
		Kind       string   `json:"kind"`
		APIVersion string   `json:"apiVersion"`
		Spec       struct{} `json:"spec"`
		Status     status   `json:"status"`
	}{"ExecCredential", execAPIVersion(os.Getenv("KUBERNETES_EXEC_INFO")), struct{}{}, status{expires.UTC().Truncate(time.Second), token}})
}

// execAPIVersion is the version of the credential that kubectl asks for.
func execAPIVersion(info string) string {
	var asked struct {
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal([]byte(info), &asked); err == nil && strings.HasPrefix(asked.APIVersion, "client.authentication.k8s.io/v1") {
		return asked.APIVersion
	}
	return kubeconfig.ExecAPI
}

// kubeProxyWait is how long an agent that has just started may take to open its proxy again.
const kubeProxyWait = 10 * time.Second

// ensureKubeProxy starts the agent if it does not run, and waits for its proxy at an address.
func (a *app) ensureKubeProxy(ctx context.Context, s config.Settings, addr, cluster string) error {
	op := "reach the proxy at " + addr
	missing := fail.New(fail.NoTarget, op, errors.New("the agent has none there"), "make it again: bastion kubeconfig eks:"+cluster)
	late := fail.New(fail.Timeout, op, fmt.Errorf("it is not open after %s", kubeProxyWait), "bastion ls forwards shows why")
	ctx, cancel := context.WithTimeoutCause(ctx, kubeProxyWait, late)
	defer cancel()
	for {
		st, err := launch.State(ctx, s)
		if err != nil {
			return err
		}
		f, ok := proxyAt(st.Forwards, addr)
		switch {
		case !ok:
			return missing
		case f.State == api.ForwardReady, f.State == api.ForwardWaiting:
			return nil
		case f.State == api.ForwardFailed && f.Error != "":
			return fail.New(fail.Other, op, errors.New(f.Error), cmp.Or(f.Next, "bastion ls forwards shows more"))
		}
		if _, err := a.ConnectAgent(ctx, s); err != nil {
			return err
		}
		if err := sleep.For(ctx, statePause); err != nil {
			return err
		}
	}
}

// statePause is the time between two looks at a state that is about to change.
const statePause = 50 * time.Millisecond

func proxyAt(all []api.Forward, addr string) (api.Forward, bool) {
	for _, f := range all {
		if f.Kind == api.KindProxy && f.Listen == addr {
			return f, true
		}
	}
	return api.Forward{}, false
}

// kubeEnvironment writes a kubeconfig for the clusters whose proxies are open, and returns the variables that name it. remove removes it.
func (a *app) kubeEnvironment(s config.Settings, found []foundCluster, proxies []api.Forward, httpsProxy bool) (
	env []string, remove func() error, err error,
) {
	if len(found) == 0 {
		return nil, func() error { return nil }, nil
	}
	self, err := a.tokenMaker(false)
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
	dir, err := dirs.Runtime(s.Local.RuntimeDir)
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(dir, "kubeconfig-"+rand.Text())
	if err := files.Replace(path, text, 0o600); err != nil {
		return nil, nil, fail.New(fail.Other, "write a kubeconfig", err, "check runtime_dir")
	}
	env = []string{"KUBECONFIG=" + path, "KUBE_CONFIG_PATH=" + path}
	if httpsProxy {
		env = append(env, "HTTPS_PROXY="+all[0].Proxy, "https_proxy="+all[0].Proxy)
	}
	return env, func() error { return os.Remove(path) }, nil
}

// splitClusters returns the places of the EKS clusters among exec's targets, and those of the others. The clients of a cluster need a
// proxy, where those of the others need a port.
func (o execOptions) splitClusters(items []request.Item) (clusters, others []int, err error) {
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
	if len(clusters) == 0 && o.httpsProxy {
		return nil, nil, fail.Usagef("add eks:NAME, or leave it out", "--https-proxy is for EKS clusters, and no target is one")
	}
	var pairs []targets.Pair
	for _, i := range others {
		pairs = append(pairs, items[i].Pair)
	}
	return clusters, others, execenv.Check(o.env, pairs)
}

// findClusters reads what AWS says of the clusters, and has their requests open proxies.
func (a *app) findClusters(items []request.Item, endpoints []targets.Endpoint, at []int) ([]foundCluster, error) {
	var found []foundCluster
	for _, i := range at {
		e, err := a.foundCluster(items[i].Settings, endpoints[i])
		if err != nil {
			return nil, err
		}
		found = append(found, e)
		*items[i].Request = api.ForwardRequest{Kind: api.KindProxy, Listen: cmp.Or(items[i].Pair.Local.String(), ":")}
	}
	return found, nil
}

// those returns the elements at the given places; of nothing, nothing.
func those[T any](all []T, at []int) []T {
	if all == nil {
		return nil
	}
	out := make([]T, len(at))
	for i, n := range at {
		out[i] = all[n]
	}
	return out
}
