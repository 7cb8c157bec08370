package api

// Span is a key or a range of keys. End empty: Key alone. End = "\x00": every key
// from Key on. Otherwise Key <= k < End. Key may be empty when End is not.
type Span struct{ Key, End []byte }

// One is the span of a single key.
func One(key []byte) Span { return Span{Key: key} }

// FromKey is the span of every key from key on.
func FromKey(key []byte) Span { return Span{Key: key, End: []byte{0}} }

// Prefix is the span of every key that begins with prefix.
func Prefix(prefix []byte) Span {
	end := PrefixEnd(prefix)
	if end == nil {
		return FromKey(prefix)
	}
	return Span{Key: prefix, End: end}
}

// Single tells whether the span is one key.
func (s Span) Single() bool { return len(s.End) == 0 }

// Bounds gives start and end as half-open bounds; end nil is no bound.
func (s Span) Bounds() (start, end []byte) {
	switch {
	case len(s.End) == 0:
		return s.Key, append(append(make([]byte, 0, len(s.Key)+1), s.Key...), 0)
	case len(s.End) == 1 && s.End[0] == 0:
		return s.Key, nil
	}
	return s.Key, s.End
}

// SortTarget is the field by which a range is ordered.
type SortTarget byte

// The targets. Key is the order in which keys stand anyway.
const (
	SortByKey SortTarget = iota
	SortByVersion
	SortByCreate
	SortByMod
	SortByValue
)

// SortOrder is the direction. Unsorted is key order.
type SortOrder byte

// The orders.
const (
	Unsorted SortOrder = iota
	Ascending
	Descending
)

// RangeRequest reads the keys of a span.
type RangeRequest struct {
	Span
	Limit     int64  // most items; 0 for no limit
	Revision  uint64 // 0 for the newest
	SortBy    SortTarget
	Order     SortOrder
	Stale     bool // answer from this node's own state
	KeysOnly  bool
	CountOnly bool
	// Bounds on the items, both included; 0 is no bound. Count ignores them.
	MinMod, MaxMod, MinCreate, MaxCreate uint64
}

// RangeResult answers it. Header.Revision is the newest key revision, also when
// an older one was read.
type RangeResult struct {
	Header
	Items []KV
	More  bool   // the limit left some out
	Count uint64 // keys of the span at the revision, whatever the limit and the bounds
}

// CompareTarget is the field of a key that is compared.
type CompareTarget byte

// The targets. A key that does not exist has 0 in all numbers; its value compares
// with nothing, so every comparison of it is false.
const (
	CompareVersion CompareTarget = iota
	CompareCreate
	CompareMod
	CompareValue
	CompareLease
)

// CompareResult is the relation that must hold.
type CompareResult byte

// The relations.
const (
	Equal CompareResult = iota
	Greater
	Less
	NotEqual
)

// Compare is one condition of a transaction. Over a range it must hold for every key
// of it; over a range without keys it is judged as of one missing key.
type Compare struct {
	Span
	Target CompareTarget
	Result CompareResult
	Number int64 // for all targets but value
	Value  []byte
}

// PutOp writes a key.
type PutOp struct {
	Key, Value  []byte
	Lease       uint64
	TTL         uint64 // milliseconds; not with Lease
	Prev        bool   // answer with the version before
	IgnoreValue bool   // keep the value; the key must exist
	IgnoreLease bool   // keep the lease; the key must exist
}

// DeleteOp deletes the keys of a span.
type DeleteOp struct {
	Span
	Prev bool
}

// Op is one operation: exactly one field is set.
type Op struct {
	Range  *RangeRequest
	Put    *PutOp
	Delete *DeleteOp
	Txn    *Txn
}

// Txn is a transaction. All conditions, nested ones too, are judged before
// anything is written. A key is written at most once in it.
type Txn struct {
	If         []Compare
	Then, Else []Op
	// Holding demands locks or elections: each names one and the token under which
	// the writer holds it. When one is lost, the transaction is refused (stale_token).
	Holding []Token
}

// Token is the fencing token of a lock or election.
type Token struct {
	Kind  TokenKind
	Name  string
	Token uint64
}

// TokenKind says what a token belongs to.
type TokenKind byte

// The kinds. TokenKey is any key: its create revision is the token.
const (
	TokenLock     TokenKind = 1
	TokenElection TokenKind = 2
	TokenKey      TokenKind = 3
)

// OpResult answers one operation, in the field of the same name.
type OpResult struct {
	Revision uint64 // key revision as the operation saw or left it
	Range    *RangeResult
	Put      *PutResult
	Delete   *DeleteResult
	Txn      *TxnResult
}

// PutResult answers a put.
type PutResult struct {
	Header
	Prev           *KV // when asked for and there was one
	CreateRevision uint64
	Version        uint64
	Lease          uint64
}

// DeleteResult answers a delete.
type DeleteResult struct {
	Header
	Deleted uint64
	Prev    []KV // when asked for
}

// TxnResult answers a transaction. Header.Revision is the newest key revision: the
// transaction's own, if it changed a key.
type TxnResult struct {
	Header
	Succeeded bool
	Ops       []OpResult
}
