// Command kubepeer is a client of a Kubernetes API server by k8s.io/client-go alone, so that the tests can try a kubeconfig without
// kubectl.
//
//	kubepeer [CONTEXT]   prints the names of the nodes, and the name of a node that is added while it watches
//
// It reads the kubeconfig as kubectl does: KUBECONFIG or ~/.kube/config, with the proxy and the exec plugin in it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// limit bounds the whole run.
const limit = 90 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kubepeer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	overrides := &clientcmd.ConfigOverrides{}
	if len(args) > 0 {
		overrides.CurrentContext = args[0]
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), overrides).ClientConfig()
	if err != nil {
		return fmt.Errorf("read the kubeconfig: %w", err)
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	nodes := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"})
	list, err := nodes.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the nodes: %w", err)
	}
	for _, n := range list.Items {
		fmt.Println("node/" + n.GetName())
	}
	watching, err := nodes.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
	if err != nil {
		return fmt.Errorf("watch the nodes: %w", err)
	}
	defer watching.Stop()
	select {
	case event := <-watching.ResultChan():
		if event.Type != watch.Added {
			return fmt.Errorf("watch the nodes: %v %v", event.Type, event.Object)
		}
		added, err := meta.Accessor(event.Object)
		if err != nil {
			return err
		}
		fmt.Println("added node/" + added.GetName())
		return nil
	case <-ctx.Done():
		return errors.New("no node is added while it watches")
	}
}
