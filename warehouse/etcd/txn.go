package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"nekoq/services/auth"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

// Txn implements etcd's KV.
func (s *Door) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	s.metrics.txns.Inc()
	if err := checkTxn(r, s.cfg.MaxTxnOps); err != nil {
		return nil, err
	}
	t, err := txnOf(r)
	if err != nil {
		return nil, err
	}
	if err := warehouse.CheckKeys(t); err != nil {
		return nil, grpcError(ctx, err)
	}
	reads := readOnly(r)
	if !reads && int64(proto.Size(r)) > s.cfg.MaxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	var res api.TxnResult
	x, err := s.access(ctx, reads && !serializable(r))
	x.fresh = x.fresh || reads
	for more := true; more; more = s.again(ctx, &x, &err) {
		if err == nil {
			err = s.mayTxn(ctx, x, r)
		}
		if err == nil {
			res, err = s.store.Txn(under(ctx, &x), t)
		}
	}
	if err != nil {
		return nil, grpcError(ctx, err, missingKey)
	}
	if reads {
		if _, err := s.stillMay(ctx, x, func(x access) error { return s.mayTxn(ctx, x, r) }); err != nil {
			return nil, err
		}
	}
	return txnResponse(s.header(res.Revision), &res), nil
}

func checkTxn(r *pb.TxnRequest, left int) error {
	n := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if n > left {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, ops := range [...][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if err := checkOp(op, left-n); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, left int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		if len(o.RequestDeleteRange.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
		return nil
	case *pb.RequestOp_RequestTxn:
		return checkTxn(o.RequestTxn, left)
	}
	return rpctypes.ErrGRPCKeyNotFound
}

func readOnly(r *pb.TxnRequest) bool {
	return everyOp(r, func(op *pb.RequestOp) bool { return op.GetRequestPut() == nil && op.GetRequestDeleteRange() == nil })
}

func serializable(r *pb.TxnRequest) bool {
	return everyOp(r, func(op *pb.RequestOp) bool { return op.GetRequestRange().GetSerializable() })
}

// everyOp tells whether ok holds for every operation that is not a transaction.
func everyOp(r *pb.TxnRequest, ok func(op *pb.RequestOp) bool) bool {
	for _, ops := range [...][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if t := op.GetRequestTxn(); t != nil {
				if !everyOp(t, ok) {
					return false
				}
			} else if !ok(op) {
				return false
			}
		}
	}
	return true
}

// mayTxn judges both branches, as the outcome of the conditions is not known yet.
func (s *Door) mayTxn(ctx context.Context, x access, r *pb.TxnRequest) error {
	if !x.on && s.everyone {
		return nil
	}
	for _, c := range r.Compare {
		if err := x.read(c.Key, c.RangeEnd); err != nil {
			return err
		}
		if err := s.allow(ctx, x.user, auth.Read, "kv", c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [...][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if err := s.mayOp(ctx, x, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Door) mayOp(ctx context.Context, x access, op *pb.RequestOp) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		if err := x.read(o.RequestRange.Key, o.RequestRange.RangeEnd); err != nil {
			return err
		}
		return s.allow(ctx, x.user, auth.Read, "kv", o.RequestRange.Key, o.RequestRange.RangeEnd)
	case *pb.RequestOp_RequestPut:
		return s.mayPut(ctx, x, o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return s.mayDelete(ctx, x, o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return s.mayTxn(ctx, x, o.RequestTxn)
	}
	return nil
}

func txnOf(r *pb.TxnRequest) (*api.Txn, error) {
	t := &api.Txn{}
	if n := len(r.Compare); n > 0 {
		t.If = make([]api.Compare, n)
		for i, c := range r.Compare {
			if err := compareOf(&t.If[i], c); err != nil {
				return nil, err
			}
		}
	}
	var err error
	if t.Then, err = opsOf(r.Success); err == nil {
		t.Else, err = opsOf(r.Failure)
	}
	return t, err
}

// compareOf reads the field that the target names; one of another target counts as
// not given, and so as 0.
func compareOf(out *api.Compare, c *pb.Compare) error {
	out.Span = api.Span{Key: c.Key, End: c.RangeEnd}
	switch c.Result {
	case pb.Compare_EQUAL:
		out.Result = api.Equal
	case pb.Compare_GREATER:
		out.Result = api.Greater
	case pb.Compare_LESS:
		out.Result = api.Less
	case pb.Compare_NOT_EQUAL:
		out.Result = api.NotEqual
	default:
		return invalidCompare("result", int32(c.Result))
	}
	switch c.Target {
	case pb.Compare_VERSION:
		out.Target, out.Number = api.CompareVersion, c.GetVersion()
	case pb.Compare_CREATE:
		out.Target, out.Number = api.CompareCreate, c.GetCreateRevision()
	case pb.Compare_MOD:
		out.Target, out.Number = api.CompareMod, c.GetModRevision()
	case pb.Compare_VALUE:
		out.Target, out.Value = api.CompareValue, c.GetValue()
	case pb.Compare_LEASE:
		out.Target, out.Number = api.CompareLease, c.GetLease()
	default:
		return invalidCompare("target", int32(c.Target))
	}
	return nil
}

func opsOf(in []*pb.RequestOp) ([]api.Op, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]api.Op, len(in))
	for i, op := range in {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			out[i].Range = rangeRequest(o.RequestRange)
		case *pb.RequestOp_RequestPut:
			p := putOp(o.RequestPut)
			out[i].Put = &p
		case *pb.RequestOp_RequestDeleteRange:
			d := deleteOp(o.RequestDeleteRange)
			out[i].Delete = &d
		case *pb.RequestOp_RequestTxn:
			t, err := txnOf(o.RequestTxn)
			if err != nil {
				return nil, err
			}
			out[i].Txn = t
		}
	}
	return out, nil
}

func txnResponse(h *pb.ResponseHeader, res *api.TxnResult) *pb.TxnResponse {
	out := &pb.TxnResponse{Header: h, Succeeded: res.Succeeded, Responses: make([]*pb.ResponseOp, len(res.Ops))}
	for i := range res.Ops {
		out.Responses[i] = responseOp(&res.Ops[i])
	}
	return out
}

// responseOp has headers with a revision alone, and of a transaction empty ones, as
// in etcd.
func responseOp(o *api.OpResult) *pb.ResponseOp {
	h := &pb.ResponseHeader{Revision: int64(o.Revision)}
	switch {
	case o.Range != nil:
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: rangeResponse(h, o.Range)}}
	case o.Put != nil:
		p := &pb.PutResponse{Header: h}
		if o.Put.Prev != nil {
			p.PrevKv = keyValue(o.Put.Prev)
		}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: p}}
	case o.Delete != nil:
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: deleteResponse(h, o.Delete)}}
	case o.Txn != nil:
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: txnResponse(&pb.ResponseHeader{}, o.Txn)}}
	}
	return &pb.ResponseOp{}
}
