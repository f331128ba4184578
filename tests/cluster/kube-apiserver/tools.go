//go:build tools

// Package tools names what is built from this module: the API server that the cluster tests run against.
package tools

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
