package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const limit = 4 << 20

type check struct {
	name string
	run  func(ctx context.Context, c *ttrpc.Client) error
}

func call(ctx context.Context, c *ttrpc.Client, method, in string) (string, error) {
	var out StringValue
	err := c.Call(ctx, service, method, &StringValue{Value: in}, &out)
	return out.Value, err
}

func want(got, wanted string, err error) error {
	if err != nil {
		return err
	}
	if got != wanted {
		return fmt.Errorf("got %.80q, wanted %.80q", got, wanted)
	}
	return nil
}

func wantCode(err error, code codes.Code, text string) error {
	st, ok := status.FromError(err)
	if err == nil || !ok || st.Code() != code || !strings.Contains(st.Message(), text) {
		return fmt.Errorf("got %v, wanted %v with %q", err, code, text)
	}
	return nil
}

func unaryChecks() []check {
	return []check{
		{"echo", func(ctx context.Context, c *ttrpc.Client) error {
			for _, in := range []string{"hello", "", strings.Repeat("ä", 100_000)} {
				out, err := call(ctx, c, "Echo", in)
				if err := want(out, in, err); err != nil {
					return err
				}
			}
			return nil
		}},
		{"errors", func(ctx context.Context, c *ttrpc.Client) error {
			for code := 1; code <= 16; code++ {
				_, err := call(ctx, c, "Fail", strconv.Itoa(code))
				if err := wantCode(err, codes.Code(code), "failed with "+strconv.Itoa(code)); err != nil {
					return err
				}
			}
			_, err := call(ctx, c, "Fail", "plain")
			return wantCode(err, codes.Unknown, "a plain error")
		}},
		{"unknown service and method", func(ctx context.Context, c *ttrpc.Client) error {
			_, err := call(ctx, c, "NoSuchMethod", "")
			if err := wantCode(err, codes.Unimplemented, "NoSuchMethod"); err != nil {
				return err
			}
			var out StringValue
			err = c.Call(ctx, "no.such.Service", "Echo", &StringValue{}, &out)
			return wantCode(err, codes.Unimplemented, "no.such.Service")
		}},
		{"metadata", func(ctx context.Context, c *ttrpc.Client) error {
			md := ttrpc.MD{}
			md.Set("some-key", "one", "two")
			out, err := call(ttrpc.WithMetadata(ctx, md), c, "Metadata", "some-key")
			return want(out, "one,two", err)
		}},
		{"time-out told to the server", func(ctx context.Context, c *ttrpc.Client) error {
			short, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			out, err := call(short, c, "Deadline", "")
			if err != nil {
				return err
			}
			ms, err := strconv.ParseFloat(out, 64)
			if err != nil || ms > 5000 || ms < 3000 {
				return fmt.Errorf("remaining: %q", out)
			}
			return nil
		}},
		{"time-out kept", func(ctx context.Context, c *ttrpc.Client) error {
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			_, err := call(short, c, "Sleep", "5000")
			if st, _ := status.FromError(err); !errors.Is(err, context.DeadlineExceeded) && st.Code() != codes.DeadlineExceeded {
				return fmt.Errorf("got %v", err)
			}
			out, err := call(ctx, c, "Echo", "after")
			return want(out, "after", err)
		}},
		{"1000 at once", func(ctx context.Context, c *ttrpc.Client) error {
			var wg sync.WaitGroup
			errs := make(chan error, 1000)
			for i := 0; i < 1000; i++ {
				wg.Add(1)
				go func(in string) {
					defer wg.Done()
					out, err := call(ctx, c, "Echo", in)
					errs <- want(out, in, err)
				}(strconv.Itoa(i))
			}
			wg.Wait()
			close(errs)
			for err := range errs {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"a slow call blocks nobody", func(ctx context.Context, c *ttrpc.Client) error {
			done := make(chan error, 1)
			go func() {
				out, err := call(ctx, c, "Sleep", "300")
				done <- want(out, "slept", err)
			}()
			start := time.Now()
			out, err := call(ctx, c, "Echo", "fast")
			if err := want(out, "fast", err); err != nil {
				return err
			}
			if time.Since(start) > 250*time.Millisecond {
				return errors.New("waited behind the slow one")
			}
			return <-done
		}},
		{"large messages and the limit", func(ctx context.Context, c *ttrpc.Client) error {
			var count StringValue
			err := c.Call(ctx, service, "Count", &BytesValue{Value: make([]byte, limit-200)}, &count)
			if err := want(count.Value, strconv.Itoa(limit-200), err); err != nil {
				return err
			}
			var made BytesValue
			err = c.Call(ctx, service, "Make", &StringValue{Value: strconv.Itoa(limit - 200)}, &made)
			if err != nil || len(made.Value) != limit-200 {
				return fmt.Errorf("got %d bytes, %v", len(made.Value), err)
			}
			err = c.Call(ctx, service, "Make", &StringValue{Value: strconv.Itoa(limit + 1)}, &made)
			if err := wantCode(err, codes.ResourceExhausted, "maximum message size"); err != nil {
				return err
			}
			out, err := call(ctx, c, "Echo", "after")
			return want(out, "after", err)
		}},
	}
}

func callAll(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	failed := 0
	for _, check := range append(unaryChecks(), versionChecks()...) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if err := check.run(ctx, client); err != nil {
			failed++
			fmt.Printf("FAIL %s: %v\n", check.name, err)
		} else {
			fmt.Printf("ok %s\n", check.name)
		}
		cancel()
	}
	if failed > 0 {
		return fmt.Errorf("%d checks failed", failed)
	}
	return nil
}
