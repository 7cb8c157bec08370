package idgen

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"nekoq/services/errs"
)

// Layout is the bit layout of one timed generator.
type Layout struct {
	Kind    Kind
	Element uint32 // id128

	// Snowflake only: zero of the time in Unix milliseconds, and the split.
	Epoch                          int64
	TimeBits, WorkerBits, SlotBits uint
}

// DefaultSnowflake is the 41 + 10 + 12 split on NekoQ's epoch.
func DefaultSnowflake() Layout {
	return Layout{Kind: Snowflake, Epoch: EpochMS, TimeBits: 41, WorkerBits: 10, SlotBits: 12}
}

// Limits of a snowflake's split. Together they make at most 63 bits, so that an
// id is a positive int64.
const (
	MinTimeBits   = 32 // 49 days
	MaxTimeBits   = 48
	MaxWorkerBits = 16
	MinSlotBits   = 1
	MaxSlotBits   = 22
)

// Check refuses a split that cannot work; now is in Unix milliseconds.
func (l Layout) Check(now int64) error {
	if l.Kind != Snowflake {
		return nil
	}
	switch {
	case l.TimeBits < MinTimeBits || l.TimeBits > MaxTimeBits:
		return errs.Invalid("time_bits", l.TimeBits, "32 to 48")
	case l.WorkerBits > MaxWorkerBits:
		return errs.Invalid("worker_bits", l.WorkerBits, "0 to 16")
	case l.SlotBits < MinSlotBits || l.SlotBits > MaxSlotBits:
		return errs.Invalid("sequence_bits", l.SlotBits, "1 to 22")
	case l.TimeBits+l.WorkerBits+l.SlotBits > 63:
		return errs.Invalid("time_bits", l.TimeBits, "a sum of time_bits, worker_bits and sequence_bits of at most 63")
	case l.Epoch < 0 || l.Epoch >= now:
		return errs.Invalid("epoch", time.UnixMilli(l.Epoch).UTC().Format(time.RFC3339), "a time from 1970 on that has passed")
	case l.lastMS() <= now:
		return errs.Invalid("epoch", time.UnixMilli(l.Epoch).UTC().Format(time.RFC3339), "an epoch whose time bits have not run out")
	}
	return nil
}

// WorkerWidth is how many bits a worker number may have here.
func (l Layout) WorkerWidth() uint {
	if l.Kind == Snowflake {
		return l.WorkerBits
	}
	return WideWorkerBits
}

// shared tells whether generators of the kind share their ids' space.
func (l Layout) shared() bool { return l.Kind == UUIDv7 || l.Kind == ULID }

// slots is how many ids one worker number makes in a millisecond. uuidv7 and
// ulid spend 22 and 24 bits on the counter.
func (l Layout) slots() uint64 {
	switch l.Kind {
	case Snowflake:
		return 1 << l.SlotBits
	case UUIDv7:
		return 1 << uuidCounterBits
	case ULID:
		return 1 << ulidCounterBits
	}
	return 1 << 32
}

// firstMS and lastMS bound the times that the layout can carry, in Unix ms.
// The first is one after the epoch, so that no id is zero.
func (l Layout) firstMS() int64 {
	switch l.Kind {
	case Snowflake:
		return l.Epoch + 1
	case ID128:
		return EpochMS + 1
	}
	return 1
}

func (l Layout) lastMS() int64 {
	switch l.Kind {
	case Snowflake:
		return l.Epoch + 1<<l.TimeBits - 1
	case ID128:
		return EpochMS + 1<<48 - 1
	}
	return 1<<48 - 1
}

const (
	uuidCounterBits = 22
	ulidCounterBits = 24
)

// Span is n consecutive places in time, claimed from a Stream: from (MS, Slot)
// on, Slots*len(Workers) to a millisecond, worker by worker in each.
type Span struct {
	MS      int64 // Unix ms
	Slot    uint64
	N       int
	Workers []uint16
	Slots   uint64 // per worker number and millisecond
}

// Append packs the span's ids: 8 or 16 bytes each, big endian, in order. rnd
// fills the random bits of uuidv7 and ulid.
func (l Layout) Append(dst []byte, s Span, rnd *rand.ChaCha8) []byte {
	switch l.Kind {
	case Snowflake:
		return l.appendSnowflake(dst, s)
	case UUIDv7, ULID:
		return l.appendRandom(dst, s, rnd)
	}
	return l.append128(dst, s)
}

func grow(dst []byte, n int) ([]byte, []byte) {
	if cap(dst)-len(dst) < n {
		dst = append(make([]byte, 0, len(dst)+n), dst...)
	}
	return dst[:len(dst)+n], dst[len(dst) : len(dst)+n]
}

// next gives the run of the span's slots that share a millisecond and a worker
// number, and cuts it off the span.
func (s *Span) next() (ms int64, worker uint16, first uint64, n int) {
	perMS := s.Slots * uint64(len(s.Workers))
	if s.Slot == perMS {
		s.MS++
		s.Slot = 0
	}
	w := s.Slot / s.Slots
	first = s.Slot - w*s.Slots
	n = int(min(uint64(s.N), s.Slots-first))
	ms, worker = s.MS, s.Workers[w]
	s.Slot += uint64(n)
	s.N -= n
	return ms, worker, first, n
}

func (l Layout) appendSnowflake(dst []byte, s Span) []byte {
	dst, out := grow(dst, 8*s.N)
	for s.N > 0 {
		ms, worker, first, n := s.next()
		id := uint64(ms-l.Epoch)<<(l.WorkerBits+l.SlotBits) | uint64(worker)<<l.SlotBits | first
		for range n {
			binary.BigEndian.PutUint64(out, id)
			out = out[8:]
			id++
		}
	}
	return dst
}

func (l Layout) append128(dst []byte, s Span) []byte {
	dst, out := grow(dst, 16*s.N)
	for s.N > 0 {
		ms, worker, first, n := s.next()
		hi := uint64(ms-EpochMS)<<16 | uint64(worker)
		lo := uint64(l.Element)<<32 | first
		for range n {
			binary.BigEndian.PutUint64(out, hi)
			binary.BigEndian.PutUint64(out[8:16], lo)
			out = out[16:]
			lo++
		}
	}
	return dst
}

// appendRandom makes uuidv7 and ulid: 48 bits of Unix ms, a counter that makes
// them increase, the worker number that makes them unique, and random bits.
//
//	uuidv7: ms 48 | version 4 | counter 12 | variant 2 | counter 10 | worker 16 | random 36
//	ulid:   ms 48 | counter 24 | worker 16 | random 40
//
// The counter is RFC 9562's fixed-length dedicated counter (section 6.2, method 1).
func (l Layout) appendRandom(dst []byte, s Span, rnd *rand.ChaCha8) []byte {
	dst, out := grow(dst, 16*s.N)
	for s.N > 0 {
		ms, worker, first, n := s.next()
		for c := first; c < first+uint64(n); c++ {
			var hi, lo uint64
			if l.Kind == UUIDv7 {
				hi = uint64(ms)<<16 | 0x7000 | c>>10
				lo = 1<<63 | (c&0x3ff)<<52 | uint64(worker)<<36 | rnd.Uint64()>>28
			} else {
				hi = uint64(ms)<<16 | c>>8
				lo = c<<56 | uint64(worker)<<40 | rnd.Uint64()>>24
			}
			binary.BigEndian.PutUint64(out, hi)
			binary.BigEndian.PutUint64(out[8:16], lo)
			out = out[16:]
		}
	}
	return dst
}
