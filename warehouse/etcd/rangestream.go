package etcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/warehouse/api"
)

// streamedPart is the bytes of keys and values with which a part of a streamed range
// ends: a part is larger by at most one key with its value.
const streamedPart = 256 << 10

// RangeStream implements etcd's KV from 3.7 on: a range in parts, of one revision.
// Together the parts are what Range answers.
func (s *Door) RangeStream(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	s.metrics.ranges.Inc()
	if err := checkRangeStream(r); err != nil {
		return err
	}
	ctx := stream.Context()
	if r.Serializable {
		if err := s.requireLeader(ctx, nil); err != nil {
			return err
		}
	}
	x, err := s.mayRange(ctx, r)
	if err != nil {
		return err
	}
	req := rangeRequest(r)
	req.SortBy, req.Order = api.SortByKey, api.Ascending // a target without an order counts for nothing
	err = s.store.Parts(ctx, req, streamedPart, func(part *api.RangeResult, last bool) error {
		// Rights are judged for every part: who lost them meanwhile gets no more.
		if _, err := s.stillMay(ctx, x, func(x access) error { return x.read(r.Key, r.RangeEnd) }); err != nil {
			return err
		}
		out := &pb.RangeResponse{Kvs: keyValues(part.Items)}
		if last {
			out = rangeResponse(s.header(part.Revision), part)
		}
		return stream.Send(&pb.RangeStreamResponse{RangeResponse: out})
	})
	return grpcError(ctx, err)
}

// checkRangeStream refuses what etcd does not stream either.
func checkRangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	if r.SortOrder != pb.RangeRequest_NONE && (r.SortOrder != pb.RangeRequest_ASCEND || r.SortTarget != pb.RangeRequest_KEY) {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}
