package table

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

func itoa[T int | int64 | uint64](v T) string { return strconv.FormatInt(int64(v), 10) }

// counter is the row of a sequence or segment: the next number that has not
// been given out.
type counter struct {
	start  uint64
	next   uint64
	period uint64 // of a sequence that resets
}

// MaxNumber is the greatest number given out: ids fit an int64.
const MaxNumber = math.MaxInt64

func getCounter(r state.Reader, element uint32) (c counter, ok bool, err error) {
	b, ok := r.Get(Counters, elementKey(element))
	if !ok {
		return c, false, nil
	}
	f := fields{b: b}
	c = counter{start: f.uvarint(), next: f.uvarint(), period: f.uvarint()}
	return c, true, f.err("counter row")
}

func (c counter) put(tx *state.Tx, element uint32) {
	b := make([]byte, 0, 3*binary.MaxVarintLen64)
	b = binary.AppendUvarint(b, c.start)
	b = binary.AppendUvarint(b, c.next)
	tx.Put(Counters, elementKey(element), binary.AppendUvarint(b, c.period))
}

// Allocation asks for N numbers of a sequence. Period and PeriodStart (Unix
// seconds) are of the moment AtMS (Unix ms) at which the asking node stands, 0
// without reset. AtMS comes back with the result, so that a retried request is
// rendered with the time of the first.
type Allocation struct {
	Element     uint32
	N           uint64
	Period      uint64
	PeriodStart uint64
	AtMS        uint64
}

// Append encodes the payload.
func (a Allocation) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(a.Element))
	b = binary.AppendUvarint(b, a.N)
	b = binary.AppendUvarint(b, a.Period)
	b = binary.AppendUvarint(b, a.PeriodStart)
	return binary.AppendUvarint(b, a.AtMS)
}

// Allocated is its result: numbers First to First+N-1 of the period.
type Allocated struct {
	First  uint64
	Period uint64
	AtMS   uint64
}

// DecodeAllocated reads the result of an allocation.
func DecodeAllocated(b []byte) (a Allocated, err error) {
	f := fields{b: b}
	a = Allocated{First: f.uvarint(), Period: f.uvarint(), AtMS: f.uvarint()}
	return a, f.err("allocation result")
}

// maxAheadOfCluster bounds how far in the future a node's clock may put what it
// proposes. A step of an hour passes; a clock that is days ahead would spoil a
// period or a worker number for as long.
const maxAheadOfCluster = 24 * time.Hour

func clockAhead(by time.Duration) error {
	return errs.New(errs.Unavailable, "this node's clock is %s ahead of the cluster's, more than %s: set it right", by.Round(time.Second), maxAheadOfCluster)
}

// applyAllocate gives the next numbers. A period only ever moves on: a node
// whose clock is behind gets numbers of the newer one and is told so.
func applyAllocate(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	f := fields{b: cmd.Payload}
	a := Allocation{Element: uint32(f.uvarint()), N: f.uvarint(), Period: f.uvarint(), PeriodStart: f.uvarint(), AtMS: f.uvarint()}
	if err := f.err("allocation"); err != nil {
		return nil, err
	}
	c, ok, err := getCounter(tx, a.Element)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, gone(a.Element)
	}
	if a.Period > c.period {
		if ahead := int64(a.PeriodStart) - tx.Time()/int64(time.Second); ahead > int64(maxAheadOfCluster/time.Second) {
			return nil, clockAhead(time.Duration(min(ahead, math.MaxInt32)) * time.Second)
		}
		c.period, c.next = a.Period, c.start
	}
	if c.next > MaxNumber || a.N > MaxNumber-c.next+1 {
		return nil, errs.New(errs.Exhausted, "the sequence has %d numbers left before %d", uint64(MaxNumber)+1-min(c.next, MaxNumber+1), uint64(MaxNumber))
	}
	first := c.next
	c.next += a.N
	c.put(tx, a.Element)
	out := make([]byte, 0, 3*binary.MaxVarintLen64)
	out = binary.AppendUvarint(out, first)
	out = binary.AppendUvarint(out, c.period)
	return binary.AppendUvarint(out, a.AtMS), nil
}
