package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"nekoq/services/auth"
	"nekoq/warehouse/api"
)

// Range implements etcd's KV.
func (s *Door) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.metrics.ranges.Inc()
	if err := checkRange(r); err != nil {
		return nil, err
	}
	if r.Serializable {
		if err := s.requireLeader(ctx, nil); err != nil {
			return nil, err
		}
	}
	x, err := s.mayRange(ctx, r)
	if err != nil {
		return nil, err
	}
	res, err := s.store.Range(ctx, rangeRequest(r))
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	if _, err = s.stillMay(ctx, x, func(x access) error { return x.read(r.Key, r.RangeEnd) }); err != nil {
		return nil, err
	}
	return rangeResponse(s.header(res.Revision), &res), nil
}

func (s *Door) mayRange(ctx context.Context, r *pb.RangeRequest) (access, error) {
	x, err := s.access(ctx, !r.Serializable)
	if err != nil {
		return x, err
	}
	if err := x.read(r.Key, r.RangeEnd); err != nil {
		return x, err
	}
	return x, s.allow(ctx, x.user, auth.Read, "kv", r.Key, r.RangeEnd)
}

// stillMay judges anew when auth changed while the request ran: what it has read may
// be newer than what it was allowed by.
func (s *Door) stillMay(ctx context.Context, x access, check func(access) error) (access, error) {
	a := s.auth()
	if a.Enabled == x.on && a.Revision == x.rev {
		return x, nil
	}
	x, err := s.identify(ctx, a)
	if err != nil {
		return x, err
	}
	return x, check(x)
}

// Put implements etcd's KV.
func (s *Door) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	s.metrics.puts.Inc()
	if err := checkPut(r); err != nil {
		return nil, err
	}
	if int64(len(r.Key)+len(r.Value)) > s.cfg.MaxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	op := putOp(r)
	var res api.PutResult
	x, err := s.access(ctx, false)
	for more := true; more; more = s.again(ctx, &x, &err) {
		if err == nil {
			err = s.mayPut(ctx, x, r)
		}
		if err == nil {
			res, err = s.store.PutOne(under(ctx, &x), &op)
		}
	}
	if err != nil {
		return nil, grpcError(ctx, err, missingKey)
	}
	out := &pb.PutResponse{Header: s.header(res.Revision)}
	if r.PrevKv && res.Prev != nil {
		out.PrevKv = keyValue(res.Prev)
	}
	return out, nil
}

func (s *Door) mayPut(ctx context.Context, x access, r *pb.PutRequest) error {
	if err := x.write(r.Key, nil); err != nil {
		return err
	}
	if x.on && r.Lease != 0 {
		if err := s.mayWriteLease(ctx, x, uint64(r.Lease)); err != nil {
			return err
		}
	}
	if r.PrevKv {
		if err := x.read(r.Key, nil); err != nil {
			return err
		}
	}
	return s.allow(ctx, x.user, auth.Write, "kv", r.Key, nil)
}

// DeleteRange implements etcd's KV.
func (s *Door) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	s.metrics.deletes.Inc()
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	if int64(len(r.Key)+len(r.RangeEnd)) > s.cfg.MaxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	op := deleteOp(r)
	var res api.DeleteResult
	x, err := s.access(ctx, false)
	for more := true; more; more = s.again(ctx, &x, &err) {
		if err == nil {
			err = s.mayDelete(ctx, x, r)
		}
		if err == nil {
			res, err = s.store.DeleteRange(under(ctx, &x), &op)
		}
	}
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	return deleteResponse(s.header(res.Revision), &res), nil
}

func (s *Door) mayDelete(ctx context.Context, x access, r *pb.DeleteRangeRequest) error {
	if err := x.write(r.Key, r.RangeEnd); err != nil {
		return err
	}
	if r.PrevKv {
		if err := x.read(r.Key, r.RangeEnd); err != nil {
			return err
		}
	}
	return s.allow(ctx, x.user, auth.Delete, "kv", r.Key, r.RangeEnd)
}

// Compact implements etcd's KV.
func (s *Door) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	x, err := s.admin(ctx, "compaction")
	if err != nil {
		return nil, err
	}
	if r.Revision <= 0 {
		return s.compactNothing(ctx, r.Revision)
	}
	h, err := s.store.CompactTo(as(ctx, x.user), uint64(r.Revision), r.Physical)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	return &pb.CompactionResponse{Header: s.header(h.Revision)}, nil
}

// compactNothing answers for revision 0, which changes nothing: it is refused once
// something was compacted, and what is below 0 always.
func (s *Door) compactNothing(ctx context.Context, rev int64) (*pb.CompactionResponse, error) {
	if rev < 0 {
		return nil, rpctypes.ErrGRPCCompacted
	}
	res, err := s.store.Range(ctx, &api.RangeRequest{Span: api.One([]byte{0}), Revision: 1, CountOnly: true})
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	return &pb.CompactionResponse{Header: s.header(res.Revision)}, nil
}

// admin is asked by what only root may do.
func (s *Door) admin(ctx context.Context, what string) (access, error) {
	x, err := s.access(ctx, true)
	if err != nil {
		return x, err
	}
	if err := x.admin(); err != nil {
		return x, err
	}
	return x, s.allow(ctx, x.user, auth.Admin, "etcd", []byte(what), nil)
}

func checkRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if r.SortOrder < 0 || r.SortOrder > pb.RangeRequest_DESCEND || r.SortTarget < 0 || r.SortTarget > pb.RangeRequest_VALUE {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func rangeRequest(r *pb.RangeRequest) *api.RangeRequest {
	out := &api.RangeRequest{
		Span: api.Span{Key: r.Key, End: r.RangeEnd}, Limit: max(r.Limit, 0), Revision: uint64(max(r.Revision, 0)),
		SortBy: api.SortTarget(r.SortTarget), Order: api.SortOrder(r.SortOrder),
		Stale: r.Serializable, KeysOnly: r.KeysOnly, CountOnly: r.CountOnly,
		MinMod: uint64(max(r.MinModRevision, 0)), MinCreate: uint64(max(r.MinCreateRevision, 0)),
		MaxMod: uint64(max(r.MaxModRevision, 0)), MaxCreate: uint64(max(r.MaxCreateRevision, 0)),
	}
	if out.SortBy != api.SortByKey && out.Order == api.Unsorted {
		out.Order = api.Ascending
	}
	if r.MaxModRevision < 0 || r.MaxCreateRevision < 0 {
		out.MinMod = 1<<63 - 1 // nothing is that old: no key fits
	}
	return out
}

func rangeResponse(h *pb.ResponseHeader, res *api.RangeResult) *pb.RangeResponse {
	return &pb.RangeResponse{Header: h, Kvs: keyValues(res.Items), More: res.More, Count: int64(res.Count)}
}

// keyValues makes them in one piece.
func keyValues(items []api.KV) []*mvccpb.KeyValue {
	if len(items) == 0 {
		return nil
	}
	block := make([]mvccpb.KeyValue, len(items))
	out := make([]*mvccpb.KeyValue, len(items))
	for i := range items {
		fillKeyValue(&block[i], &items[i])
		out[i] = &block[i]
	}
	return out
}

func keyValue(kv *api.KV) *mvccpb.KeyValue {
	out := &mvccpb.KeyValue{}
	fillKeyValue(out, kv)
	return out
}

func fillKeyValue(out *mvccpb.KeyValue, kv *api.KV) {
	out.Key, out.Value = kv.Key, kv.Value
	out.CreateRevision, out.ModRevision = int64(kv.CreateRevision), int64(kv.ModRevision)
	out.Version, out.Lease = int64(kv.Version), int64(kv.Lease)
}

func putOp(r *pb.PutRequest) api.PutOp {
	return api.PutOp{
		Key: r.Key, Value: r.Value, Lease: uint64(r.Lease), Prev: r.PrevKv, IgnoreValue: r.IgnoreValue, IgnoreLease: r.IgnoreLease,
	}
}

func deleteOp(r *pb.DeleteRangeRequest) api.DeleteOp {
	return api.DeleteOp{Span: api.Span{Key: r.Key, End: r.RangeEnd}, Prev: r.PrevKv}
}

func deleteResponse(h *pb.ResponseHeader, res *api.DeleteResult) *pb.DeleteRangeResponse {
	return &pb.DeleteRangeResponse{Header: h, Deleted: int64(res.Deleted), PrevKvs: keyValues(res.Prev)}
}
