//go:build ttrpc11

package main

import (
	"github.com/containerd/ttrpc"
	"github.com/gogo/protobuf/types"
)

// Messages of the protobuf library that ttrpc 1.1 uses.
type (
	StringValue = types.StringValue
	BytesValue  = types.BytesValue
)

func newServer() (*ttrpc.Server, error) {
	server, err := ttrpc.NewServer()
	if err == nil {
		server.Register(service, unaryMethods())
	}
	return server, err
}

func versionChecks() []check { return nil }
