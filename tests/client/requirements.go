//go:build requirements

package main

// What the SDK's own tests import and the SDK does not: named here, so that go.mod and go.sum know it.
import (
	_ "github.com/containernetworking/cni/libcni"
	_ "github.com/go-ping/ping"
	_ "github.com/stretchr/testify/require"
	_ "golang.org/x/crypto/ssh"
)
