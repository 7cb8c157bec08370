package etcd

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/errs"
)

// Every code of the program has an answer of this door, with etcd's text where etcd
// has such an error.
func TestErrors(t *testing.T) {
	for _, want := range []struct {
		code errs.Code
		grpc codes.Code
		text string
	}{
		{errs.Compacted, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
		{errs.FutureRevision, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{errs.LeaseNotFound, codes.NotFound, "etcdserver: requested lease not found"},
		{errs.TooLarge, codes.InvalidArgument, "etcdserver: request is too large"},
		{errs.TooManyOps, codes.InvalidArgument, "etcdserver: too many operations in txn request"},
		{errs.DuplicateKey, codes.InvalidArgument, "etcdserver: duplicate key given in txn request"},
		{errs.TooManyRequests, codes.ResourceExhausted, "etcdserver: too many requests"},
		{errs.Exhausted, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded"},
		{errs.StorageFull, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded"},
		{errs.NoLeader, codes.Unavailable, "etcdserver: no leader"},
		{errs.OutcomeUnknown, codes.Unavailable, "etcdserver: request timed out"},
		{errs.ShuttingDown, codes.Unavailable, "etcdserver: server stopped"},
		{errs.Forbidden, codes.PermissionDenied, "etcdserver: permission denied"},
		{errs.Corrupt, codes.DataLoss, "etcdserver: corrupt cluster"},
		{errs.InvalidArgument, codes.InvalidArgument, "etcdserver: because"},
	} {
		got := status.Convert(grpcError(context.Background(), fmt.Errorf("wrapped: %w", errs.New(want.code, "because"))))
		if got.Code() != want.grpc || got.Message() != want.text {
			t.Errorf("%s: %v %q", want.code, got.Code(), got.Message())
		}
	}
	for _, i := range errs.Table {
		if got := status.Convert(grpcError(context.Background(), errs.New(i.Code, "because"))); got.Code() == codes.OK || got.Message() == "" {
			t.Errorf("%s: %v", i.Code, got)
		}
	}
	special := grpcError(context.Background(), errs.New(errs.AlreadyExists, "x"), leaseExists)
	if !errors.Is(special, rpctypes.ErrGRPCLeaseExist) {
		t.Errorf("%v", special)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := status.Code(grpcError(ctx, errs.New(errs.Internal, "x"))); got != codes.Canceled {
		t.Errorf("%v", got)
	}
}

// streamOf is a stream of which only the context is asked for.
type streamOf struct {
	pb.Watch_WatchServer
	ctx context.Context
}

func (s streamOf) Context() context.Context { return s.ctx }

// A stream of watches whose client's time is up ends with that, as in etcd; one that
// the client has left is cancelled.
func TestEndOfAWatchStream(t *testing.T) {
	late, done := context.WithDeadline(context.Background(), time.Unix(0, 0))
	defer done()
	left, leave := context.WithCancel(context.Background())
	leave()
	for what, o := range map[string]struct {
		ctx  context.Context
		err  error
		code codes.Code
		text string
	}{
		"deadline":  {late, context.Cause(late), codes.DeadlineExceeded, "context deadline exceeded"},
		"left":      {left, context.Canceled, codes.Canceled, "etcdserver: watch canceled"},
		"stopped":   {context.Background(), rpctypes.ErrGRPCStopped, codes.Unavailable, "etcdserver: server stopped"},
		"no leader": {context.Background(), rpctypes.ErrGRPCNoLeader, codes.Unavailable, "etcdserver: no leader"},
	} {
		w := &watchStream{stream: streamOf{ctx: o.ctx}}
		if err := w.ended(o.err); status.Code(err) != o.code || status.Convert(err).Message() != o.text {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestConfig(t *testing.T) {
	if bad := DefaultConfig().Validate(); len(bad) > 0 {
		t.Error(bad)
	}
	off := DefaultConfig()
	off.Listen = ""
	if bad := off.Validate(); len(bad) > 0 {
		t.Error(bad)
	}
	var c Config
	c.Listen = "nowhere"
	if bad := c.Validate(); len(bad) < 8 {
		t.Errorf("%d mistakes of an empty section: %v", len(bad), bad)
	}
}
