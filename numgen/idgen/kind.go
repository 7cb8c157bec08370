// Package idgen turns time, worker numbers and leased blocks into ids. It is
// the one place with the rules that keep ids unique and increasing, and both the
// server and the Go client run it.
//
// It owns the bit layouts of the kinds, the streams that hand out (time, slot)
// pairs under a worker's durable high-water time, the leased blocks of
// segments, the templates of formatted ids with their check digits, and the
// decoding of all of them. It knows nothing of where leases come from: a Worker
// and a Segment ask an interface.
//
// Worker, Stream and Segment are safe for concurrent use; Layout, Template and
// the codecs are immutable. It may be imported by numgen and its doors and by
// client; it imports only services/errs and services/clock of NekoQ.
package idgen

import (
	"slices"
	"time"
)

// Kind is what ids look like and how they come to be. The numbers travel on the
// native door and stand in the state: only ever appended.
type Kind uint8

const (
	ID128     Kind = 1 // 48 bits ms, 16 worker, 32 element, 32 sequence
	Snowflake Kind = 2 // 41 + 10 + 12 bits by default
	UUIDv7    Kind = 3 // RFC 9562
	ULID      Kind = 4 // monotonic
	Segment   Kind = 5 // increasing 64-bit numbers from leased blocks
	Sequence  Kind = 6 // 64-bit numbers without gaps
	Format    Kind = 7 // a template over any of the others
)

var kindNames = []string{ID128: "id128", Snowflake: "snowflake", UUIDv7: "uuidv7", ULID: "ulid", Segment: "segment", Sequence: "sequence", Format: "format"}

// Kinds are the names of all kinds, in their order.
func Kinds() []string { return slices.Clone(kindNames[1:]) }

// ParseKind gives the kind of a name.
func ParseKind(name string) (Kind, bool) {
	i := slices.Index(kindNames, name)
	return Kind(max(i, 0)), i > 0
}

func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

// Timed tells whether ids of the kind carry a time and a worker number.
func (k Kind) Timed() bool { return k >= ID128 && k <= ULID }

// Wide tells whether ids of the kind have 128 bits.
func (k Kind) Wide() bool { return k == ID128 || k == UUIDv7 || k == ULID }

// Size is the packed size of one id in bytes; 0 for format, whose ids are texts
// with a length before each.
func (k Kind) Size() int {
	switch {
	case k.Wide():
		return 16
	case k == Format:
		return 0
	}
	return 8
}

// EpochMS is NekoQ's epoch, 2018-03-21T13:30:00Z, in Unix milliseconds: the
// zero of id128 and the default one of snowflake.
const EpochMS = 1521639000000

// Epoch is EpochMS as a time.
var Epoch = time.UnixMilli(EpochMS).UTC()

// WideWorkerBits is the width of the worker number in the 128-bit kinds.
const WideWorkerBits = 16

// firstWide is the lowest worker number for layouts with 16 bits of it, so that
// they leave the small numbers to the narrow ones.
const firstWide = 1024

// WorkerRange is where the worker numbers of a width are taken from: [from, to).
func WorkerRange(width uint) (from, to int) {
	if width >= WideWorkerBits {
		return firstWide, 1 << WideWorkerBits
	}
	return 0, 1 << width
}
