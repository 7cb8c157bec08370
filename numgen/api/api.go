// Package api is what travels between numgen's doors and its callers: the JSON
// of management calls and the packed bytes of the hot call. Server and Go client
// share it.
//
// It owns names and limits of the wire form and holds no state. The services'
// doors, the domain and client import it; it imports only numgen/idgen.
package api

import (
	"encoding/binary"
	"time"
	"unicode/utf8"

	"nekoq/numgen/idgen"
	"nekoq/services/errs"
	"nekoq/services/wire"
)

// The methods of the native door.
const (
	// MethodIDs is the hot call: AppendIDsRequest, answered with AppendIDs.
	MethodIDs wire.Method = 0x0100
	// The rest speak JSON.
	MethodCreate        wire.Method = 0x0101 // CreateRequest → Generator
	MethodGet           wire.Method = 0x0102 // NameRequest → Generator
	MethodList          wire.Method = 0x0103 // ListRequest → GeneratorList
	MethodUpdate        wire.Method = 0x0104 // UpdateRequest → Generator
	MethodDelete        wire.Method = 0x0105 // NameRequest → Empty
	MethodDecode        wire.Method = 0x0106 // DecodeRequest → idgen.Decoded
	MethodWorkers       wire.Method = 0x0107 // WorkersRequest → WorkerList
	MethodAcquireWorker wire.Method = 0x0108 // idgen.AcquireRequest → idgen.Grant
	MethodExtendWorker  wire.Method = 0x0109 // idgen.ExtendRequest → idgen.Grant
	MethodReleaseWorker wire.Method = 0x010a // idgen.ReleaseRequest → Empty
	MethodLeaseSegment  wire.Method = 0x010b // LeaseSegmentRequest → idgen.Block
	MethodReturnSegment wire.Method = 0x010c // ReturnSegmentRequest → Empty
	MethodLeaseTerms    wire.Method = 0x010d // NameRequest → LeaseTerms
)

// MaxName is the greatest length of a generator's name in bytes.
const MaxName = 128

const nameRule = "1 to 128 bytes of letters and digits of any script and - _ . : without one of these at either end"

// CheckName refuses a name that is not 1 to 128 bytes of valid UTF-8, made of
// letters, marks and digits of any script and the separators - _ . : between them.
func CheckName(field, name string) error {
	if name == "" || len(name) > MaxName || !utf8.ValidString(name) {
		return errs.Invalid(field, name, nameRule)
	}
	for i, r := range name {
		sep := r == '-' || r == '_' || r == '.' || r == ':'
		if !sep && !nameRune(r) || sep && (i == 0 || i == len(name)-1) {
			return errs.Invalid(field, name, nameRule)
		}
	}
	return nil
}

// CheckNewName is CheckName for a generator that is being made. Those whose names are
// paths of the REST door could not be asked for ids there.
func CheckNewName(field, name string) error {
	if err := CheckName(field, name); err != nil {
		return err
	}
	if name == "generators" || name == "workers" {
		return errs.New(errs.Forbidden, "%s: %q is reserved: it is a path of the REST API; take another name", field, name).
			With(errs.Detail{Field: field, Value: name, Limit: "not generators, not workers"})
	}
	return nil
}

// Options of a generator. Which of them a kind takes stands beside each.
type Options struct {
	// Snowflake: zero of the time, RFC 3339; and the split, at most 63 bits.
	Epoch        string `json:"epoch,omitempty" doc:"snowflake: zero of its time, RFC 3339. Default 2018-03-21T13:30:00Z."`
	TimeBits     int    `json:"time_bits,omitempty" doc:"snowflake: bits of milliseconds, 32 to 48. Default 41."`
	WorkerBits   int    `json:"worker_bits,omitempty" doc:"snowflake: bits of the worker number, 1 to 16. Default 10."`
	SequenceBits int    `json:"sequence_bits,omitempty" doc:"snowflake: bits of the sequence within a millisecond, 1 to 22. Default 12."`
	// Segment and sequence.
	Start   int64 `json:"start,omitempty,string" doc:"segment, sequence: first number, 1 or more. Default 1."`
	MinStep int64 `json:"min_step,omitempty" doc:"segment: least numbers leased at once. Default numgen.segment_min_step."`
	MaxStep int64 `json:"max_step,omitempty" doc:"segment: most numbers leased at once. Default numgen.segment_max_step."`
	// Format.
	Template string `json:"template,omitempty" doc:"format: literals, {n:8,base=36}, dates such as {yyyyMMdd}, {check=luhn}."`
	TimeZone string `json:"time_zone,omitempty" doc:"format: IANA zone of the dates. Default UTC."`
	Reset    string `json:"reset,omitempty" doc:"format over sequence: when its numbers start again: day, month or year."`
	Of       string `json:"of,omitempty" doc:"format: kind of its numbers. Default sequence; the options of that kind stand beside."`
}

// Generator is a named source of ids.
type Generator struct {
	Name            string  `json:"name" doc:"Name."`
	Kind            string  `json:"kind" doc:"Kind of its ids."`
	Element         uint32  `json:"element" doc:"Number of the generator: durable, unique, never used again."`
	Description     string  `json:"description,omitempty" doc:"Free text."`
	Options         Options `json:"options" doc:"Options with defaults filled in."`
	CreatedRevision uint64  `json:"created_revision" doc:"Store revision of its creation."`
	UpdatedRevision uint64  `json:"updated_revision" doc:"Store revision of its last change."`
	Created         string  `json:"created" doc:"Time of its creation, RFC 3339."`
}

// CreateRequest makes a generator. Made again with the same kind and options it
// is no change.
type CreateRequest struct {
	Name        string  `json:"name" required:"false" doc:"Name: letters and digits of any script, - _ . : between them, 1 to 128 bytes."`
	Kind        string  `json:"kind,omitempty" doc:"Kind; default numgen.default_kind."`
	Description string  `json:"description,omitempty" doc:"Free text of up to 256 bytes."`
	Options     Options `json:"options,omitzero" required:"false" doc:"Options of the kind."`
}

// UpdateRequest changes what can be changed without making an id come twice.
// Nil leaves a member as it is.
type UpdateRequest struct {
	Name        string  `json:"name,omitempty"`
	Description *string `json:"description,omitempty" doc:"Free text of up to 256 bytes."`
	MinStep     *int64  `json:"min_step,omitempty" doc:"segment: least numbers leased at once."`
	MaxStep     *int64  `json:"max_step,omitempty" doc:"segment: most numbers leased at once."`
}

// NameRequest names a generator.
type NameRequest struct {
	Name  string `json:"name"`
	Stale bool   `json:"stale,omitempty"` // of a read: answered at once from the node's own state
}

// Empty is the answer without content.
type Empty struct{}

// ListRequest asks for generators in the order of their names, those after After.
type ListRequest struct {
	Prefix string `json:"prefix,omitempty"`
	After  string `json:"after,omitempty"`
	Limit  int    `json:"limit,omitempty"`
	Stale  bool   `json:"stale,omitempty"` // answered at once from the node's own state
}

// GeneratorList is one page. More tells that there is another one.
type GeneratorList struct {
	Generators []Generator `json:"generators"`
	More       bool        `json:"more"`
}

// DecodeRequest names an id and either the generator it is from, or its kind
// with, for snowflake, the options of the split.
type DecodeRequest struct {
	Name    string  `json:"name,omitempty" doc:"Generator that the id is from."`
	Kind    string  `json:"kind,omitempty" doc:"Kind of the id, when no generator is named."`
	ID      string  `json:"id" doc:"The id."`
	Options Options `json:"options,omitzero" required:"false" doc:"Options of the kind, when no generator is named."`
}

// WorkersRequest asks for worker numbers from From on.
type WorkersRequest struct {
	From  int  `json:"from,omitempty"`
	Limit int  `json:"limit,omitempty"`
	Stale bool `json:"stale,omitempty"`
}

// WorkerInfo is one worker number.
type WorkerInfo struct {
	Number    int    `json:"number" doc:"Worker number."`
	Holder    string `json:"holder" doc:"Who holds it, or held it last."`
	Held      bool   `json:"held" doc:"Whether the lease runs."`
	Token     uint64 `json:"token" doc:"Fencing token: store revision of the acquisition; 0 when given back."`
	HighWater string `json:"high_water" doc:"No id under this number carries a later time, RFC 3339."`
	Expires   string `json:"expires,omitempty" doc:"When the lease ends unless it is extended, RFC 3339."`
}

// WorkerList is one page.
type WorkerList struct {
	Workers []WorkerInfo `json:"workers"`
	More    bool         `json:"more"`
}

// LeaseSegmentRequest leases a block of a segment generator.
type LeaseSegmentRequest struct {
	Name    string `json:"name"`
	Element uint32 `json:"element"`
	Holder  string `json:"holder"`
	Step    uint64 `json:"step,string"`
	Nonce   uint64 `json:"nonce,string"`
	After   uint64 `json:"after,string"`
}

// ReturnSegmentRequest gives back the unused rest.
type ReturnSegmentRequest struct {
	Name    string        `json:"name"`
	Element uint32        `json:"element"`
	Holder  string        `json:"holder"`
	Nonce   uint64        `json:"nonce,string"`
	Blocks  []idgen.Block `json:"blocks"`
}

// LeaseTerms are what a client needs to make a generator's ids by itself: the
// generator, and the server's settings for leases.
type LeaseTerms struct {
	Generator Generator     `json:"generator"`
	Reserve   time.Duration `json:"reserve_ns,string"`
	TTL       time.Duration `json:"ttl_ns,string"`
	MaxDrift  time.Duration `json:"max_drift_ns,string"`
	MaxAhead  time.Duration `json:"max_ahead_ns,string"`
	Idle      time.Duration `json:"idle_ns,string"`
	Refill    time.Duration `json:"refill_ns,string"`
	Workers   int           `json:"workers"`
}

// AppendIDsRequest is the hot call's request: count as uvarint, then the name.
func AppendIDsRequest(dst []byte, name string, n int) []byte {
	return append(binary.AppendUvarint(dst, uint64(n)), name...)
}

// ParseIDsRequest is its inverse. name aliases req.
func ParseIDsRequest(req []byte) (name []byte, n int, err error) {
	v, w := binary.Uvarint(req)
	if w <= 0 || v > 1<<31-1 {
		return nil, 0, errs.New(errs.ProtocolViolation, "the request for ids does not begin with a count")
	}
	return req[w:], int(v), nil
}

// ParseIDs splits the hot call's answer: one byte of kind, then the packed ids.
func ParseIDs(answer []byte) (k idgen.Kind, packed []byte, err error) {
	if len(answer) == 0 || answer[0] == 0 || idgen.Kind(answer[0]) > idgen.Format {
		return 0, nil, errs.New(errs.ProtocolViolation, "the answer with ids does not begin with their kind")
	}
	return idgen.Kind(answer[0]), answer[1:], nil
}
