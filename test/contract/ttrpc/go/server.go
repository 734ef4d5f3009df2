package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// text makes a method of a function from text to text.
func text(run func(ctx context.Context, in string) (string, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		var in StringValue
		if err := unmarshal(&in); err != nil {
			return nil, err
		}
		out, err := run(ctx, in.Value)
		if err != nil {
			return nil, err
		}
		return &StringValue{Value: out}, nil
	}
}

func unaryMethods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"Echo": text(func(_ context.Context, in string) (string, error) { return in, nil }),
		"Fail": text(func(_ context.Context, in string) (string, error) {
			if in == "plain" {
				return "", errors.New("a plain error")
			}
			code, err := strconv.Atoi(in)
			if err != nil {
				return "", err
			}
			return "", status.Error(codes.Code(code), "failed with "+in)
		}),
		"Sleep": text(func(ctx context.Context, in string) (string, error) {
			ms, err := strconv.Atoi(in)
			if err != nil {
				return "", err
			}
			select {
			case <-time.After(time.Duration(ms) * time.Millisecond):
				return "slept", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}),
		"Metadata": text(func(ctx context.Context, in string) (string, error) {
			md, _ := ttrpc.GetMetadata(ctx)
			values, _ := md.Get(in)
			return strings.Join(values, ","), nil
		}),
		"Deadline": text(func(ctx context.Context, _ string) (string, error) {
			deadline, ok := ctx.Deadline()
			if !ok {
				return "none", nil
			}
			return fmt.Sprint(time.Until(deadline).Milliseconds()), nil
		}),
		"Make": func(_ context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			var in StringValue
			if err := unmarshal(&in); err != nil {
				return nil, err
			}
			size, err := strconv.Atoi(in.Value)
			if err != nil {
				return nil, err
			}
			return &BytesValue{Value: make([]byte, size)}, nil
		},
		"Count": func(_ context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			var in BytesValue
			if err := unmarshal(&in); err != nil {
				return nil, err
			}
			return &StringValue{Value: strconv.Itoa(len(in.Value))}, nil
		},
	}
}

func runServer(server *ttrpc.Server, listener net.Listener) error {
	return server.Serve(context.Background(), listener)
}
