// Command peer is the Go side of the interop tests of ttrpc-ts: a server and a client of one small service.
//
//	peer serve <socket>   serves until its stdin ends; prints "ready" when it listens
//	peer call <socket>    runs every check against a server; one line each, "ok <name>" or "FAIL <name>: <why>"
//
// The tag ttrpc11 builds it against ttrpc 1.1, without streams; otherwise 1.2.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

const service = "interop.v1.Interop"

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: peer serve|call <socket>")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2])
	case "call":
		err = callAll(os.Args[2])
	default:
		err = fmt.Errorf("unknown verb %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(path string) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server, err := newServer()
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return runServer(server, listener)
}
