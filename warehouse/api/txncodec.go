package api

import "encoding/binary"

// maxDepth bounds nested transactions, so that a message cannot exhaust the stack.
const maxDepth = 64

func (s *Span) append(b []byte) []byte { return appendBytes(appendBytes(b, s.Key), s.End) }

func (s *Span) decode(d *reader) { s.Key, s.End = d.bytes(), d.bytes() }

// Append encodes the request.
func (r *RangeRequest) Append(b []byte) []byte {
	b = append(b, bits(r.Stale, r.KeysOnly, r.CountOnly), byte(r.SortBy), byte(r.Order))
	for _, v := range [...]uint64{uint64(max(r.Limit, 0)), r.Revision, r.MinMod, r.MaxMod, r.MinCreate, r.MaxCreate} {
		b = binary.AppendUvarint(b, v)
	}
	return r.Span.append(b)
}

func (r *RangeRequest) decode(d *reader) {
	f := d.byte()
	r.Stale, r.KeysOnly, r.CountOnly = f&1 != 0, f&2 != 0, f&4 != 0
	r.SortBy, r.Order = SortTarget(d.byte()), SortOrder(d.byte())
	r.Limit = int64(d.uint())
	for _, v := range [...]*uint64{&r.Revision, &r.MinMod, &r.MaxMod, &r.MinCreate, &r.MaxCreate} {
		*v = d.uint()
	}
	r.Span.decode(d)
	if r.SortBy > SortByValue || r.Order > Descending || r.Limit < 0 {
		d.bad = true
	}
}

// Decode reads what Append wrote; byte slices alias b.
func (r *RangeRequest) Decode(b []byte) error {
	d := reader{b: b}
	r.decode(&d)
	return d.err("range request")
}

func (r *RangeResult) append(b []byte) []byte {
	b = append(b, bits(r.More))
	b = r.Header.append(b)
	b = binary.AppendUvarint(b, r.Count)
	return appendKVs(b, r.Items)
}

func (r *RangeResult) decode(d *reader) {
	r.More = d.byte()&1 != 0
	r.Header.decode(d)
	r.Count = d.uint()
	r.Items = decodeKVs(d)
}

// Append encodes the result.
func (r *RangeResult) Append(b []byte) []byte { return r.append(b) }

// Decode reads what Append wrote; byte slices alias b.
func (r *RangeResult) Decode(b []byte) error {
	d := reader{b: b}
	r.decode(&d)
	return d.err("range result")
}

func (p *PutOp) append(b []byte) []byte {
	b = append(b, bits(p.Prev, p.IgnoreValue, p.IgnoreLease))
	b = binary.AppendUvarint(b, p.Lease)
	b = binary.AppendUvarint(b, p.TTL)
	return appendBytes(appendBytes(b, p.Key), p.Value)
}

func (p *PutOp) decode(d *reader) {
	f := d.byte()
	p.Prev, p.IgnoreValue, p.IgnoreLease = f&1 != 0, f&2 != 0, f&4 != 0
	p.Lease, p.TTL = d.uint(), d.uint()
	p.Key, p.Value = d.bytes(), d.bytes()
}

// The kinds of an encoded operation.
const (
	opRange = iota + 1
	opPut
	opDelete
	opTxn
)

func appendOps(b []byte, ops []Op) []byte {
	b = binary.AppendUvarint(b, uint64(len(ops)))
	for i := range ops {
		switch o := &ops[i]; {
		case o.Range != nil:
			b = o.Range.Append(append(b, opRange))
		case o.Put != nil:
			b = o.Put.append(append(b, opPut))
		case o.Delete != nil:
			b = append(b, opDelete, bits(o.Delete.Prev))
			b = o.Delete.Span.append(b)
		default:
			t := o.Txn
			if t == nil {
				t = &Txn{}
			}
			b = t.Append(append(b, opTxn))
		}
	}
	return b
}

func decodeOps(d *reader, depth int) []Op {
	n := d.count(2)
	if n == 0 || depth > maxDepth {
		d.bad = d.bad || depth > maxDepth
		return nil
	}
	ops := make([]Op, n)
	for i := range ops {
		o := &ops[i]
		switch d.byte() {
		case opRange:
			o.Range = &RangeRequest{}
			o.Range.decode(d)
		case opPut:
			o.Put = &PutOp{}
			o.Put.decode(d)
		case opDelete:
			o.Delete = &DeleteOp{Prev: d.byte()&1 != 0}
			o.Delete.Span.decode(d)
		case opTxn:
			o.Txn = &Txn{}
			o.Txn.decode(d, depth+1)
		default:
			d.bad = true
		}
		if d.bad {
			return nil
		}
	}
	return ops
}

// Append encodes the transaction.
func (t *Txn) Append(b []byte) []byte {
	b = append(b, 0)
	b = binary.AppendUvarint(b, uint64(len(t.If)))
	for i := range t.If {
		c := &t.If[i]
		b = append(b, byte(c.Target), byte(c.Result))
		b = c.Span.append(b)
		b = binary.AppendVarint(b, c.Number)
		b = appendBytes(b, c.Value)
	}
	b = binary.AppendUvarint(b, uint64(len(t.Holding)))
	for i := range t.Holding {
		h := &t.Holding[i]
		b = append(b, byte(h.Kind))
		b = appendString(b, h.Name)
		b = binary.AppendUvarint(b, h.Token)
	}
	return appendOps(appendOps(b, t.Then), t.Else)
}

func (t *Txn) decode(d *reader, depth int) {
	d.byte()
	if n := d.count(6); n > 0 {
		t.If = make([]Compare, n)
	}
	for i := range t.If {
		c := &t.If[i]
		c.Target, c.Result = CompareTarget(d.byte()), CompareResult(d.byte())
		c.Span.decode(d)
		c.Number, c.Value = d.int(), d.bytes()
		if c.Target > CompareLease || c.Result > NotEqual {
			d.bad = true
		}
	}
	if n := d.count(3); n > 0 {
		t.Holding = make([]Token, n)
	}
	for i := range t.Holding {
		t.Holding[i] = Token{Kind: TokenKind(d.byte()), Name: string(d.bytes()), Token: d.uint()}
	}
	t.Then = decodeOps(d, depth)
	t.Else = decodeOps(d, depth)
}

// Decode reads what Append wrote; byte slices alias b.
func (t *Txn) Decode(b []byte) error {
	d := reader{b: b}
	t.decode(&d, 0)
	return d.err("transaction")
}

// Append encodes the result.
func (r *TxnResult) Append(b []byte) []byte {
	b = append(b, bits(r.Succeeded))
	b = r.Header.append(b)
	b = binary.AppendUvarint(b, uint64(len(r.Ops)))
	for i := range r.Ops {
		b = r.Ops[i].append(b)
	}
	return b
}

func (o *OpResult) append(b []byte) []byte {
	switch {
	case o.Range != nil:
		b = binary.AppendUvarint(append(b, opRange), o.Revision)
		b = o.Range.append(b)
	case o.Put != nil:
		b = binary.AppendUvarint(append(b, opPut), o.Revision)
		b = append(b, bits(o.Put.Prev != nil))
		for _, v := range [...]uint64{o.Put.CreateRevision, o.Put.Version, o.Put.Lease} {
			b = binary.AppendUvarint(b, v)
		}
		if o.Put.Prev != nil {
			b = o.Put.Prev.append(b)
		}
	case o.Delete != nil:
		b = binary.AppendUvarint(append(b, opDelete), o.Revision)
		b = binary.AppendUvarint(b, o.Delete.Deleted)
		b = appendKVs(b, o.Delete.Prev)
	default:
		b = binary.AppendUvarint(append(b, opTxn), o.Revision)
		t := o.Txn
		if t == nil {
			t = &TxnResult{}
		}
		b = t.Append(b)
	}
	return b
}

func (o *OpResult) decode(d *reader, depth int) {
	kind := d.byte()
	o.Revision = d.uint()
	switch kind {
	case opRange:
		o.Range = &RangeResult{}
		o.Range.decode(d)
	case opPut:
		has := d.byte()&1 != 0
		o.Put = &PutResult{CreateRevision: d.uint(), Version: d.uint(), Lease: d.uint()}
		o.Put.Revision = o.Revision
		if has {
			o.Put.Prev = new(KV)
			o.Put.Prev.decode(d)
		}
	case opDelete:
		o.Delete = &DeleteResult{Deleted: d.uint()}
		o.Delete.Revision = o.Revision
		o.Delete.Prev = decodeKVs(d)
	case opTxn:
		o.Txn = &TxnResult{}
		o.Txn.decode(d, depth+1)
	default:
		d.bad = true
	}
}

func (r *TxnResult) decode(d *reader, depth int) {
	if depth > maxDepth {
		d.bad = true
		return
	}
	r.Succeeded = d.byte()&1 != 0
	r.Header.decode(d)
	n := d.count(3)
	if n > 0 {
		r.Ops = make([]OpResult, n)
	}
	for i := range r.Ops {
		r.Ops[i].decode(d, depth)
		if d.bad {
			return
		}
	}
}

// Decode reads what Append wrote; byte slices alias b.
func (r *TxnResult) Decode(b []byte) error {
	d := reader{b: b}
	r.decode(&d, 0)
	return d.err("transaction's result")
}
