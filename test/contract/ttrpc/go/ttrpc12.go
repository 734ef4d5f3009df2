//go:build !ttrpc11

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Messages of the protobuf library that ttrpc 1.2 uses.
type (
	StringValue = wrapperspb.StringValue
	BytesValue  = wrapperspb.BytesValue
)

func newServer() (*ttrpc.Server, error) {
	server, err := ttrpc.NewServer()
	if err == nil {
		server.RegisterService(service, &ttrpc.ServiceDesc{Methods: unaryMethods(), Streams: streams()})
	}
	return server, err
}

func streams() map[string]ttrpc.Stream {
	return map[string]ttrpc.Stream{
		"Both": {StreamingClient: true, StreamingServer: true, Handler: func(_ context.Context, s ttrpc.StreamServer) (interface{}, error) {
			for {
				var in StringValue
				if err := s.RecvMsg(&in); err == io.EOF {
					return nil, nil
				} else if err != nil {
					return nil, err
				}
				if err := s.SendMsg(&StringValue{Value: "re: " + in.Value}); err != nil {
					return nil, err
				}
			}
		}},
		"Sum": {StreamingClient: true, Handler: func(_ context.Context, s ttrpc.StreamServer) (interface{}, error) {
			sum := 0
			for {
				var in StringValue
				if err := s.RecvMsg(&in); err == io.EOF {
					return &StringValue{Value: strconv.Itoa(sum)}, nil
				} else if err != nil {
					return nil, err
				}
				n, err := strconv.Atoi(in.Value)
				if err != nil {
					return nil, status.Error(codes.InvalidArgument, "not a number: "+in.Value)
				}
				sum += n
			}
		}},
		"List": {StreamingServer: true, Handler: func(_ context.Context, s ttrpc.StreamServer) (interface{}, error) {
			var in StringValue
			if err := s.RecvMsg(&in); err != nil {
				return nil, err
			}
			count, err := strconv.Atoi(in.Value)
			if err != nil {
				return nil, status.Error(codes.InvalidArgument, "not a number: "+in.Value)
			}
			for i := 0; i < count; i++ {
				if err := s.SendMsg(&StringValue{Value: strconv.Itoa(i)}); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}},
	}
}

// recvAll reads a stream to its end.
func recvAll(s ttrpc.ClientStream) ([]string, error) {
	var got []string
	for {
		var out StringValue
		if err := s.RecvMsg(&out); err == io.EOF {
			return got, nil
		} else if err != nil {
			return got, err
		}
		got = append(got, out.Value)
	}
}

func versionChecks() []check {
	both := &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}
	sum := &ttrpc.StreamDesc{StreamingClient: true}
	list := &ttrpc.StreamDesc{StreamingServer: true}
	return []check{
		{"stream both ways", func(ctx context.Context, c *ttrpc.Client) error {
			s, err := c.NewStream(ctx, both, service, "Both", nil)
			if err != nil {
				return err
			}
			for i := 0; i < 200; i++ {
				in := strconv.Itoa(i)
				if err := s.SendMsg(&StringValue{Value: in}); err != nil {
					return err
				}
				var out StringValue
				if err := want2(s.RecvMsg(&out), func() (string, string) { return out.Value, "re: " + in }); err != nil {
					return err
				}
			}
			if err := s.CloseSend(); err != nil {
				return err
			}
			got, err := recvAll(s)
			return want(strings.Join(got, ","), "", err)
		}},
		{"stream of requests", func(ctx context.Context, c *ttrpc.Client) error {
			s, err := c.NewStream(ctx, sum, service, "Sum", nil)
			if err != nil {
				return err
			}
			for i := 1; i <= 100; i++ {
				if err := s.SendMsg(&StringValue{Value: strconv.Itoa(i)}); err != nil {
					return err
				}
			}
			if err := s.CloseSend(); err != nil {
				return err
			}
			var out StringValue
			err = s.RecvMsg(&out)
			return want(out.Value, "5050", err)
		}},
		{"stream of responses", func(ctx context.Context, c *ttrpc.Client) error {
			for _, count := range []int{0, 1, 1000} {
				s, err := c.NewStream(ctx, list, service, "List", &StringValue{Value: strconv.Itoa(count)})
				if err != nil {
					return err
				}
				got, err := recvAll(s)
				if err != nil || len(got) != count {
					return fmt.Errorf("got %d of %d, %v", len(got), count, err)
				}
			}
			return nil
		}},
		{"error ends a stream", func(ctx context.Context, c *ttrpc.Client) error {
			s, err := c.NewStream(ctx, list, service, "List", &StringValue{Value: "many"})
			if err != nil {
				return err
			}
			_, err = recvAll(s)
			if err := wantCode(err, codes.InvalidArgument, "not a number"); err != nil {
				return err
			}
			out, err := call(ctx, c, "Echo", "after")
			return want(out, "after", err)
		}},
		{"oversize request refused by the client", func(ctx context.Context, c *ttrpc.Client) error {
			var count StringValue
			err := c.Call(ctx, service, "Count", &BytesValue{Value: make([]byte, limit+1)}, &count)
			var oversize *ttrpc.OversizedMessageErr
			if !errors.As(err, &oversize) {
				return fmt.Errorf("got %v", err)
			}
			return nil
		}},
	}
}

func want2(err error, values func() (string, string)) error {
	if err != nil {
		return err
	}
	got, wanted := values()
	return want(got, wanted, nil)
}
