package api

import (
	"encoding/binary"
	"time"

	"nekoq/services/errs"
)

// reader takes a message apart; the first damage sticks.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) uint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := uint64(r.b[0])
		r.b = r.b[1:]
		return v
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int() int64 {
	u := r.uint()
	return int64(u>>1) ^ -int64(u&1)
}

// bytes gives nil for an empty field.
func (r *reader) bytes() []byte {
	n := r.uint()
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	if n == 0 {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// count reads a number of elements that take at least min bytes each, so that a
// damaged number cannot ask for more memory than the message has.
func (r *reader) count(min int) int {
	n := r.uint()
	if r.bad || n > uint64(len(r.b)/min) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) err(what string) error {
	if r.bad {
		return errs.New(errs.ProtocolViolation, "warehouse: a damaged %s", what)
	}
	return nil
}

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendString(b []byte, v string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// bits packs booleans into a flags byte, the first in bit 0.
func bits(v ...bool) byte {
	f := byte(0)
	for i, on := range v {
		if on {
			f |= 1 << i
		}
	}
	return f
}

func (r *PutRequest) Append(b []byte) []byte {
	b = append(b, bits(r.If.Set))
	b = binary.AppendUvarint(b, r.If.Revision)
	b = binary.AppendVarint(b, int64(r.TTL))
	b = binary.AppendUvarint(b, r.Lease)
	b = appendBytes(b, r.Key)
	return appendBytes(b, r.Value)
}

func (r *PutRequest) Decode(b []byte) error {
	d := reader{b: b}
	f := d.byte()
	r.If = Condition{Set: f&1 != 0, Revision: d.uint()}
	r.TTL = time.Duration(d.int())
	r.Lease = d.uint()
	r.Key, r.Value = d.bytes(), d.bytes()
	return d.err("put request")
}

func (r *DeleteRequest) Append(b []byte) []byte {
	b = append(b, bits(r.If.Set))
	b = binary.AppendUvarint(b, r.If.Revision)
	return appendBytes(b, r.Key)
}

func (r *DeleteRequest) Decode(b []byte) error {
	d := reader{b: b}
	f := d.byte()
	r.If = Condition{Set: f&1 != 0, Revision: d.uint()}
	r.Key = d.bytes()
	return d.err("delete request")
}

func (r *WriteResult) Append(b []byte) []byte {
	b = append(b, 0)
	for _, v := range [...]uint64{r.Revision, r.CreateRevision, r.Version, r.Lease, r.PrevRevision, r.StoreRevision} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func (r *WriteResult) Decode(b []byte) error {
	d := reader{b: b}
	d.byte()
	for _, v := range [...]*uint64{&r.Revision, &r.CreateRevision, &r.Version, &r.Lease, &r.PrevRevision, &r.StoreRevision} {
		*v = d.uint()
	}
	return d.err("write result")
}

func (r *GetRequest) Append(b []byte) []byte {
	b = append(b, bits(r.Stale))
	b = binary.AppendUvarint(b, r.Revision)
	return appendBytes(b, r.Key)
}

func (r *GetRequest) Decode(b []byte) error {
	d := reader{b: b}
	f := d.byte()
	r.Stale = f&1 != 0
	r.Revision = d.uint()
	r.Key = d.bytes()
	return d.err("get request")
}

func (h *Header) append(b []byte) []byte {
	b = append(b, bits(h.Stale, h.LagKnown))
	b = binary.AppendUvarint(b, h.Revision)
	b = binary.AppendUvarint(b, h.StoreRevision)
	if h.Stale {
		b = binary.AppendUvarint(b, h.LagEntries)
		b = binary.AppendVarint(b, int64(h.LagAge))
	}
	return b
}

func (h *Header) decode(d *reader) {
	f := d.byte()
	*h = Header{Stale: f&1 != 0, LagKnown: f&2 != 0, Revision: d.uint(), StoreRevision: d.uint()}
	if h.Stale {
		h.LagEntries = d.uint()
		h.LagAge = time.Duration(d.int())
	}
}

// append writes a KV; its value may be left out where only keys were asked for.
func (kv *KV) append(b []byte) []byte {
	b = append(b, bits(kv.Deleted))
	for _, v := range [...]uint64{kv.ModRevision, kv.ModRevision - kv.CreateRevision, kv.Version, kv.Lease} {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendVarint(b, int64(kv.StoreRevision-kv.ModRevision))
	b = binary.AppendVarint(b, kv.Modified)
	b = binary.AppendVarint(b, kv.Modified-kv.Created)
	b = appendString(b, kv.Actor)
	b = appendBytes(b, kv.Key)
	return appendBytes(b, kv.Value)
}

// minKV is the least number of bytes of an encoded KV.
const minKV = 11

func (kv *KV) decode(d *reader) {
	f := d.byte()
	kv.Deleted = f&1 != 0
	kv.ModRevision = d.uint()
	kv.CreateRevision = kv.ModRevision - d.uint()
	kv.Version = d.uint()
	kv.Lease = d.uint()
	kv.StoreRevision = kv.ModRevision + uint64(d.int())
	kv.Modified = d.int()
	kv.Created = kv.Modified - d.int()
	kv.Actor = string(d.bytes())
	kv.Key, kv.Value = d.bytes(), d.bytes()
}

func (r *GetResult) Append(b []byte) []byte {
	b = append(b, bits(r.Found))
	b = r.Header.append(b)
	if r.Found {
		b = r.KV.append(b)
	}
	return b
}

func (r *GetResult) Decode(b []byte) error {
	d := reader{b: b}
	r.Found = d.byte()&1 != 0
	r.Header.decode(&d)
	r.KV = KV{}
	if r.Found {
		r.KV.decode(&d)
	}
	return d.err("get result")
}

func (r *ListRequest) Append(b []byte) []byte {
	b = append(b, bits(r.Stale, r.KeysOnly, r.Count))
	b = binary.AppendVarint(b, int64(r.Limit))
	b = binary.AppendUvarint(b, r.Revision)
	b = appendBytes(b, r.Start)
	b = appendBytes(b, r.End)
	return appendString(b, r.PageToken)
}

func (r *ListRequest) Decode(b []byte) error {
	d := reader{b: b}
	f := d.byte()
	r.Stale, r.KeysOnly, r.Count = f&1 != 0, f&2 != 0, f&4 != 0
	r.Limit = int(d.int())
	r.Revision = d.uint()
	r.Start, r.End = d.bytes(), d.bytes()
	r.PageToken = string(d.bytes())
	return d.err("list request")
}

func (r *ListResult) Append(b []byte) []byte {
	b = append(b, bits(r.Counted))
	b = r.Header.append(b)
	b = binary.AppendUvarint(b, r.Count)
	b = appendString(b, r.NextPageToken)
	return appendKVs(b, r.Items)
}

func (r *ListResult) Decode(b []byte) error {
	d := reader{b: b}
	r.Counted = d.byte()&1 != 0
	r.Header.decode(&d)
	r.Count = d.uint()
	r.NextPageToken = string(d.bytes())
	r.Items = decodeKVs(&d)
	return d.err("list result")
}

func appendKVs(b []byte, kvs []KV) []byte {
	b = binary.AppendUvarint(b, uint64(len(kvs)))
	for i := range kvs {
		b = kvs[i].append(b)
	}
	return b
}

func decodeKVs(d *reader) []KV {
	kvs := make([]KV, d.count(minKV))
	for i := range kvs {
		kvs[i].decode(d)
	}
	return kvs
}

func (r *HistoryRequest) Append(b []byte) []byte {
	b = append(b, bits(r.Stale))
	b = binary.AppendVarint(b, int64(r.Limit))
	b = binary.AppendUvarint(b, r.Before)
	return appendBytes(b, r.Key)
}

func (r *HistoryRequest) Decode(b []byte) error {
	d := reader{b: b}
	r.Stale = d.byte()&1 != 0
	r.Limit = int(d.int())
	r.Before = d.uint()
	r.Key = d.bytes()
	return d.err("history request")
}

func (r *HistoryResult) Append(b []byte) []byte {
	b = append(b, bits(r.More))
	b = r.Header.append(b)
	b = binary.AppendUvarint(b, r.CompactRevision)
	return appendKVs(b, r.Items)
}

func (r *HistoryResult) Decode(b []byte) error {
	d := reader{b: b}
	r.More = d.byte()&1 != 0
	r.Header.decode(&d)
	r.CompactRevision = d.uint()
	r.Items = decodeKVs(&d)
	return d.err("history result")
}

func (r *WatchRequest) Append(b []byte) []byte {
	b = append(b, bits(r.Exact, r.Now, r.Prev))
	b = binary.AppendUvarint(b, r.After)
	b = appendBytes(b, r.Start)
	return appendBytes(b, r.End)
}

func (r *WatchRequest) Decode(b []byte) error {
	d := reader{b: b}
	f := d.byte()
	r.Exact, r.Now, r.Prev = f&1 != 0, f&2 != 0, f&4 != 0
	r.After = d.uint()
	r.Start, r.End = d.bytes(), d.bytes()
	return d.err("watch request")
}

func (r *WatchBatch) Append(b []byte) []byte {
	b = append(b, 0)
	b = binary.AppendUvarint(b, r.Revision)
	b = binary.AppendUvarint(b, uint64(len(r.Events)))
	for i := range r.Events {
		b = r.Events[i].append(b)
	}
	return b
}

func (r *WatchBatch) Decode(b []byte) error {
	d := reader{b: b}
	d.byte()
	r.Revision = d.uint()
	r.Events = make([]Event, d.count(minKV+4))
	for i := range r.Events {
		r.Events[i].decode(&d)
	}
	return d.err("watch batch")
}

func (e *Event) append(b []byte) []byte {
	b = append(b, byte(e.Kind), bits(e.Prev != nil))
	b = binary.AppendUvarint(b, uint64(e.Sub))
	b = binary.AppendUvarint(b, e.PrevRevision)
	b = e.KV.append(b)
	if e.Prev != nil {
		b = e.Prev.append(b)
	}
	return b
}

func (e *Event) decode(d *reader) {
	e.Kind = EventKind(d.byte())
	if e.Kind != EventPut && e.Kind != EventDelete {
		d.bad = true
	}
	f := d.byte()
	e.Sub = uint32(d.uint())
	e.PrevRevision = d.uint()
	e.KV.decode(d)
	if f&1 != 0 {
		e.Prev = new(KV)
		e.Prev.decode(d)
	}
}

func (r *Status) Append(b []byte) []byte {
	b = append(b, 0)
	b = r.Header.append(b)
	for _, v := range [...]uint64{r.CompactRevision, r.Keys, r.Bytes} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func (r *Status) Decode(b []byte) error {
	d := reader{b: b}
	d.byte()
	r.Header.decode(&d)
	r.CompactRevision, r.Keys, r.Bytes = d.uint(), d.uint(), d.uint()
	return d.err("status")
}

func (r *CompactRequest) Append(b []byte) []byte {
	return binary.AppendUvarint(append(b, 0), r.Revision)
}

func (r *CompactRequest) Decode(b []byte) error {
	d := reader{b: b}
	d.byte()
	r.Revision = d.uint()
	return d.err("compact request")
}

func (r *StatusRequest) Append(b []byte) []byte { return append(b, bits(r.Stale)) }

func (r *StatusRequest) Decode(b []byte) error {
	d := reader{b: b}
	r.Stale = d.byte()&1 != 0
	return d.err("status request")
}
