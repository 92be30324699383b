package kubernetes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/kubeconfig"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/targets"
)

// eksTokenOptions are the options of eks-token that are no settings.
type eksTokenOptions struct{ proxy string }

func (a *program) eksTokenCommand() *cli.Command {
	var o eksTokenOptions
	return &cli.Command{
		Name:    "eks-token",
		Summary: "print a token for an EKS cluster (kubectl's exec plugin)",
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

// eksToken runs `bastion eks-token`.
func (a *program) eksToken(ctx context.Context, s config.Settings, name string, o eksTokenOptions) error {
	name = strings.TrimPrefix(name, "eks:")
	if !targets.ValidClusterName(name) {
		return fail.Usagef("write the cluster's name", "%q is not the name of an EKS cluster", name)
	}
	if o.proxy != "" {
		if err := a.ensureKubeProxy(ctx, s, o.proxy, name); err != nil {
			return err
		}
	}
	var token string
	var expires time.Time
	err := a.Ask(ctx, "eks-token", s, func(ctx context.Context, run *invocation.Session) (err error) {
		token, expires, err = run.Access.ClusterToken(ctx, name)
		return err
	})
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
func (a *program) ensureKubeProxy(ctx context.Context, s config.Settings, addr, cluster string) error {
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
