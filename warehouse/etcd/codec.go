package etcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of single keys are coded here by hand, which costs a tenth of what
// the general code costs; they are most of what a door carries. What these functions
// do not know they leave to the general code, with the same outcome: a test holds
// them to it.

// decodeFast decodes b into v; false leaves it to the general code. Byte fields keep
// the memory of b.
func decodeFast(b []byte, v any) bool {
	switch m := v.(type) {
	case *pb.PutRequest:
		return decodePut(b, m)
	case *pb.RangeRequest:
		return decodeRange(b, m)
	case *pb.DeleteRangeRequest:
		return decodeDelete(b, m)
	case *pb.LeaseKeepAliveRequest:
		return eachField(b, func(n protowire.Number, f field) bool {
			return n == 1 && f.number(&m.ID)
		})
	case *pb.TxnRequest:
		return decodeTxn(b, m)
	}
	return false
}

// field is the value of one field: a varint or bytes.
type field struct {
	varint bool
	n      uint64
	b      []byte
}

func (f field) number(to *int64) bool {
	*to = int64(f.n)
	return f.varint
}

func (f field) bool(to *bool) bool {
	*to = f.n != 0
	return f.varint
}

func (f field) bytes(to *[]byte) bool {
	*to = f.b
	return !f.varint
}

func enum[E ~int32](f field, to *E) bool {
	*to = E(int32(f.n))
	return f.varint
}

// eachField calls fn with each field until it gives false: for a field that it does
// not know, or of another type than it is.
func eachField(b []byte, fn func(n protowire.Number, f field) bool) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		var f field
		switch typ {
		case protowire.VarintType:
			f.varint = true
			f.n, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.b, n = protowire.ConsumeBytes(b)
			f.b = f.b[:len(f.b):len(f.b)]
		default:
			return false
		}
		if n < 0 || !fn(num, f) {
			return false
		}
		b = b[n:]
	}
	return true
}

func decodePut(b []byte, m *pb.PutRequest) bool {
	return eachField(b, func(n protowire.Number, f field) bool {
		switch n {
		case 1:
			return f.bytes(&m.Key)
		case 2:
			return f.bytes(&m.Value)
		case 3:
			return f.number(&m.Lease)
		case 4:
			return f.bool(&m.PrevKv)
		case 5:
			return f.bool(&m.IgnoreValue)
		case 6:
			return f.bool(&m.IgnoreLease)
		}
		return false
	})
}

func decodeRange(b []byte, m *pb.RangeRequest) bool {
	return eachField(b, func(n protowire.Number, f field) bool {
		switch n {
		case 1:
			return f.bytes(&m.Key)
		case 2:
			return f.bytes(&m.RangeEnd)
		case 3:
			return f.number(&m.Limit)
		case 4:
			return f.number(&m.Revision)
		case 5:
			return enum(f, &m.SortOrder)
		case 6:
			return enum(f, &m.SortTarget)
		case 7:
			return f.bool(&m.Serializable)
		case 8:
			return f.bool(&m.KeysOnly)
		case 9:
			return f.bool(&m.CountOnly)
		case 10:
			return f.number(&m.MinModRevision)
		case 11:
			return f.number(&m.MaxModRevision)
		case 12:
			return f.number(&m.MinCreateRevision)
		case 13:
			return f.number(&m.MaxCreateRevision)
		}
		return false
	})
}

func decodeDelete(b []byte, m *pb.DeleteRangeRequest) bool {
	return eachField(b, func(n protowire.Number, f field) bool {
		switch n {
		case 1:
			return f.bytes(&m.Key)
		case 2:
			return f.bytes(&m.RangeEnd)
		case 3:
			return f.bool(&m.PrevKv)
		}
		return false
	})
}

func decodeTxn(b []byte, m *pb.TxnRequest) bool {
	return eachField(b, func(n protowire.Number, f field) bool {
		if f.varint {
			return false
		}
		switch n {
		case 1:
			c := &pb.Compare{}
			m.Compare = append(m.Compare, c)
			return decodeCompare(f.b, c)
		case 2:
			op := &pb.RequestOp{}
			m.Success = append(m.Success, op)
			return decodeOp(f.b, op)
		case 3:
			op := &pb.RequestOp{}
			m.Failure = append(m.Failure, op)
			return decodeOp(f.b, op)
		}
		return false
	})
}

func decodeCompare(b []byte, m *pb.Compare) bool {
	return eachField(b, func(n protowire.Number, f field) bool {
		switch n {
		case 1:
			return enum(f, &m.Result)
		case 2:
			return enum(f, &m.Target)
		case 3:
			return f.bytes(&m.Key)
		case 4:
			m.TargetUnion = &pb.Compare_Version{Version: int64(f.n)}
			return f.varint
		case 5:
			m.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: int64(f.n)}
			return f.varint
		case 6:
			m.TargetUnion = &pb.Compare_ModRevision{ModRevision: int64(f.n)}
			return f.varint
		case 7:
			m.TargetUnion = &pb.Compare_Value{Value: f.b}
			return !f.varint
		case 8:
			m.TargetUnion = &pb.Compare_Lease{Lease: int64(f.n)}
			return f.varint
		case 64:
			return f.bytes(&m.RangeEnd)
		}
		return false
	})
}

// decodeOp leaves nested transactions to the general code, which bounds their depth,
// and with it an operation that is given twice, whose parts are merged.
func decodeOp(b []byte, m *pb.RequestOp) bool {
	return eachField(b, func(n protowire.Number, f field) bool {
		if f.varint || m.Request != nil {
			return false
		}
		switch n {
		case 1:
			r := &pb.RangeRequest{}
			m.Request = &pb.RequestOp_RequestRange{RequestRange: r}
			return decodeRange(f.b, r)
		case 2:
			r := &pb.PutRequest{}
			m.Request = &pb.RequestOp_RequestPut{RequestPut: r}
			return decodePut(f.b, r)
		case 3:
			r := &pb.DeleteRangeRequest{}
			m.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}
			return decodeDelete(f.b, r)
		}
		return false
	})
}

// encodeFast appends v to b; false leaves it to the general code.
func encodeFast(b []byte, v any) ([]byte, bool) {
	switch m := v.(type) {
	case *pb.PutResponse:
		return appendPut(b, m), true
	case *pb.RangeResponse:
		return appendRange(b, m), true
	case *pb.RangeStreamResponse:
		return appendRangePart(b, m), true
	case *pb.DeleteRangeResponse:
		return appendDeleted(b, m), true
	case *pb.LeaseKeepAliveResponse:
		b = appendNumber(appendHeader(b, m.Header), 2, uint64(m.ID))
		return appendNumber(b, 3, uint64(m.TTL)), true
	case *pb.TxnResponse:
		return appendTxn(b, m)
	case *pb.WatchResponse:
		return appendWatch(b, m)
	}
	return b, false
}

func appendNumber(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendNumber(b, num, 1)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// appendPart appends a message inside a message. Its length stands before it and is
// known after it: one byte is left for it, and more are made when it needs them.
func appendPart(b []byte, num protowire.Number, part func(b []byte) []byte) []byte {
	b = append(protowire.AppendTag(b, num, protowire.BytesType), 0)
	start := len(b)
	b = part(b)
	size := len(b) - start
	if size < 128 {
		b[start-1] = byte(size)
		return b
	}
	more := protowire.SizeVarint(uint64(size)) - 1
	for range more {
		b = append(b, 0)
	}
	copy(b[start+more:], b[start:start+size])
	protowire.AppendVarint(b[:start-1], uint64(size))
	return b
}

func appendHeader(b []byte, h *pb.ResponseHeader) []byte {
	if h == nil {
		return b
	}
	return appendPart(b, 1, func(b []byte) []byte {
		b = appendNumber(b, 1, h.ClusterId)
		b = appendNumber(b, 2, h.MemberId)
		b = appendNumber(b, 3, uint64(h.Revision))
		return appendNumber(b, 4, h.RaftTerm)
	})
}

func sizeNumber(num protowire.Number, v uint64) int {
	if v == 0 {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeVarint(v)
}

func sizeBytes(num protowire.Number, v []byte) int {
	if len(v) == 0 {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeBytes(len(v))
}

// appendKV appends a key with its value. The size is reckoned first, since values
// are long and would have to be moved.
func appendKV(b []byte, num protowire.Number, kv *mvccpb.KeyValue) []byte {
	if kv == nil {
		return b
	}
	size := sizeBytes(1, kv.Key) + sizeNumber(2, uint64(kv.CreateRevision)) + sizeNumber(3, uint64(kv.ModRevision)) +
		sizeNumber(4, uint64(kv.Version)) + sizeBytes(5, kv.Value) + sizeNumber(6, uint64(kv.Lease))
	b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.BytesType), uint64(size))
	b = appendBytes(b, 1, kv.Key)
	b = appendNumber(b, 2, uint64(kv.CreateRevision))
	b = appendNumber(b, 3, uint64(kv.ModRevision))
	b = appendNumber(b, 4, uint64(kv.Version))
	b = appendBytes(b, 5, kv.Value)
	return appendNumber(b, 6, uint64(kv.Lease))
}

func appendPut(b []byte, m *pb.PutResponse) []byte {
	return appendKV(appendHeader(b, m.Header), 2, m.PrevKv)
}

func appendRange(b []byte, m *pb.RangeResponse) []byte {
	b = appendHeader(b, m.Header)
	for _, kv := range m.Kvs {
		b = appendKV(b, 2, kv)
	}
	return appendNumber(appendBool(b, 3, m.More), 4, uint64(m.Count))
}

func appendRangePart(b []byte, m *pb.RangeStreamResponse) []byte {
	if m.RangeResponse == nil {
		return b
	}
	return appendPart(b, 1, func(b []byte) []byte { return appendRange(b, m.RangeResponse) })
}

func appendDeleted(b []byte, m *pb.DeleteRangeResponse) []byte {
	b = appendNumber(appendHeader(b, m.Header), 2, uint64(m.Deleted))
	for _, kv := range m.PrevKvs {
		b = appendKV(b, 3, kv)
	}
	return b
}

func appendTxn(b []byte, m *pb.TxnResponse) ([]byte, bool) {
	whole := len(b)
	b = appendBool(appendHeader(b, m.Header), 2, m.Succeeded)
	for _, r := range m.Responses {
		known := true
		b = appendPart(b, 3, func(b []byte) []byte {
			switch r := r.GetResponse().(type) {
			case *pb.ResponseOp_ResponseRange:
				return appendPart(b, 1, func(b []byte) []byte { return appendRange(b, r.ResponseRange) })
			case *pb.ResponseOp_ResponsePut:
				return appendPart(b, 2, func(b []byte) []byte { return appendPut(b, r.ResponsePut) })
			case *pb.ResponseOp_ResponseDeleteRange:
				return appendPart(b, 3, func(b []byte) []byte { return appendDeleted(b, r.ResponseDeleteRange) })
			}
			known = false
			return b
		})
		if !known {
			return b[:whole], false
		}
	}
	return b, true
}

// appendWatch knows answers that carry events; the others are rare.
func appendWatch(b []byte, m *pb.WatchResponse) ([]byte, bool) {
	if m.Created || m.Canceled || m.CompactRevision != 0 || m.CancelReason != "" {
		return b, false
	}
	b = appendNumber(appendHeader(b, m.Header), 2, uint64(m.WatchId))
	b = appendBool(b, 7, m.Fragment)
	for _, e := range m.Events {
		b = appendPart(b, 11, func(b []byte) []byte {
			b = appendNumber(b, 1, uint64(e.Type))
			return appendKV(appendKV(b, 2, e.Kv), 3, e.PrevKv)
		})
	}
	return b, true
}
