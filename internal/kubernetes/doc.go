// Package kubernetes leads kubectl, helm and other clients to an EKS cluster's private endpoint: the commands kubeconfig and eks-token,
// and what exec does for a cluster. The texts of kubeconfig files are in internal/kubeconfig.
package kubernetes
