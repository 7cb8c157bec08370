package table

import (
	"bytes"
	"encoding/binary"
	"time"

	"nekoq/numgen/idgen"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

// SegmentLease asks for a block of up to Step numbers, all above After and above
// everything that Holder had before. Nonce names the attempt: repeated, it gets
// the same block.
type SegmentLease struct {
	Element   uint32
	Holder    string
	Ephemeral bool // the holder never comes back under this name
	Step      uint64
	Nonce     uint64
	After     uint64
}

// Append encodes the payload.
func (s SegmentLease) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.Element))
	b = appendText(b, s.Holder)
	b = binary.AppendUvarint(b, flag(s.Ephemeral))
	b = binary.AppendUvarint(b, s.Step)
	b = binary.AppendUvarint(b, s.Nonce)
	return binary.AppendUvarint(b, s.After)
}

func flag(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// DecodeBlock reads the result of a segment lease.
func DecodeBlock(b []byte) (blk idgen.Block, err error) {
	f := fields{b: b}
	blk = idgen.Block{Lo: f.uvarint(), Hi: f.uvarint(), Token: f.uvarint()}
	return blk, f.err("segment result")
}

func encodeBlock(b idgen.Block) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(nil, b.Lo), b.Hi), b.Token)
}

// segmentHolder is what is known of one holder of a segment: its newest block
// by nonce, and the greatest number that it may have used.
type segmentHolder struct {
	nonce uint64 // of the newest lease; 0 when the rest of it was given back
	block idgen.Block
	last  uint64
	at    uint64 // Unix seconds of the newest lease
}

// holderKey sorts ephemeral holders apart, so that old ones are found.
func holderKey(element uint32, holder string, ephemeral bool) []byte {
	b := append(elementKey(element), byte(flag(ephemeral)))
	return append(b, holder...)
}

func decodeSegmentHolder(b []byte) (h segmentHolder, err error) {
	f := fields{b: b}
	h.nonce = f.uvarint()
	h.block = idgen.Block{Lo: f.uvarint(), Hi: f.uvarint(), Token: f.uvarint()}
	h.last, h.at = f.uvarint(), f.uvarint()
	return h, f.err("segment holder row")
}

func (h segmentHolder) encode() []byte {
	b := binary.AppendUvarint(nil, h.nonce)
	b = append(b, encodeBlock(h.block)...)
	return binary.AppendUvarint(binary.AppendUvarint(b, h.last), h.at)
}

func applyLeaseSegment(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	f := fields{b: cmd.Payload}
	s := SegmentLease{Element: uint32(f.uvarint()), Holder: f.text(), Ephemeral: f.uvarint() == 1, Step: f.uvarint(), Nonce: f.uvarint(), After: f.uvarint()}
	if err := f.err("segment lease"); err != nil {
		return nil, err
	}
	c, ok, err := getCounter(tx, s.Element)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, gone(s.Element)
	}
	key := holderKey(s.Element, s.Holder, s.Ephemeral)
	var h segmentHolder
	row, known := tx.Get(SegmentHolders, key)
	if known {
		if h, err = decodeSegmentHolder(row); err != nil {
			return nil, err
		}
		if s.Nonce != 0 && h.nonce == s.Nonce {
			return encodeBlock(h.block), nil
		}
	}
	lo, hi, freed := firstFree(tx, s.Element, max(h.last, s.After))
	var blk idgen.Block
	switch {
	case freed:
		blk = idgen.Block{Lo: lo, Hi: lo + min(hi-lo, s.Step)}
	case c.next > MaxNumber:
		return nil, errs.New(errs.Exhausted, "the segment's numbers are used up: the last one is %d", uint64(MaxNumber))
	default:
		blk = idgen.Block{Lo: c.next, Hi: c.next + min(s.Step, MaxNumber-c.next+1)}
	}
	blk.Token = tx.Next()
	stale := [][]byte(nil)
	if s.Ephemeral && !known {
		if stale, err = staleHolders(tx, s.Element); err != nil {
			return nil, err
		}
	}
	// Writes from here on.
	if freed {
		tx.Delete(FreeBlocks, freeKey(s.Element, lo))
		if blk.Hi < hi {
			tx.Put(FreeBlocks, freeKey(s.Element, blk.Hi), binary.BigEndian.AppendUint64(nil, hi))
		}
	} else {
		c.next = blk.Hi
		c.put(tx, s.Element)
	}
	for _, k := range stale {
		tx.Delete(SegmentHolders, k)
	}
	tx.Put(SegmentHolders, key, segmentHolder{nonce: s.Nonce, block: blk, last: blk.Hi - 1, at: uint64(tx.Time() / int64(time.Second))}.encode())
	return encodeBlock(blk), nil
}

func freeKey(element uint32, lo uint64) []byte {
	return binary.BigEndian.AppendUint64(elementKey(element), lo)
}

// firstFree is the lowest block given back that lies above last.
func firstFree(r state.Reader, element uint32, last uint64) (lo, hi uint64, ok bool) {
	r.Scan(FreeBlocks, freeKey(element, last+1), elementKey(element+1), func(k, v []byte) bool {
		lo, hi, ok = binary.BigEndian.Uint64(k[4:]), binary.BigEndian.Uint64(v), true
		return false
	})
	return lo, hi, ok
}

// Ephemeral holders that went without giving back are forgotten after a week, a
// few at every arrival of a new one.
const (
	holderMemory  = 7 * 24 * time.Hour
	holdersLooked = 16
)

func staleHolders(tx *state.Tx, element uint32) (keys [][]byte, err error) {
	looked := 0
	from, to := holderKey(element, "", true), elementKey(element+1)
	tx.Scan(SegmentHolders, from, to, func(k, v []byte) bool {
		var h segmentHolder
		if h, err = decodeSegmentHolder(v); err != nil {
			return false
		}
		if int64(h.at) < tx.Time()/int64(time.Second)-int64(holderMemory/time.Second) {
			keys = append(keys, bytes.Clone(k))
		}
		looked++
		return looked < holdersLooked
	})
	return keys, err
}

// SegmentReturn gives back what Holder has not used of its blocks. Nonce is
// that of its newest lease, so that giving back twice is refused: the numbers
// may be in other hands by then.
type SegmentReturn struct {
	Element   uint32
	Holder    string
	Ephemeral bool
	Nonce     uint64
	Blocks    []idgen.Block // ascending
}

// Append encodes the payload.
func (s SegmentReturn) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.Element))
	b = appendText(b, s.Holder)
	b = binary.AppendUvarint(b, flag(s.Ephemeral))
	b = binary.AppendUvarint(b, s.Nonce)
	b = binary.AppendUvarint(b, uint64(len(s.Blocks)))
	for _, blk := range s.Blocks {
		b = binary.AppendUvarint(binary.AppendUvarint(b, blk.Lo), blk.Hi)
	}
	return b
}

func decodeReturn(payload []byte) (s SegmentReturn, err error) {
	f := fields{b: payload}
	s = SegmentReturn{Element: uint32(f.uvarint()), Holder: f.text(), Ephemeral: f.uvarint() == 1, Nonce: f.uvarint()}
	for n := f.uvarint(); n > 0 && !f.bad; n-- {
		s.Blocks = append(s.Blocks, idgen.Block{Lo: f.uvarint(), Hi: f.uvarint()})
	}
	return s, f.err("segment return")
}

func applyReturnSegment(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	s, err := decodeReturn(cmd.Payload)
	if err != nil {
		return nil, err
	}
	c, ok, err := getCounter(tx, s.Element)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, gone(s.Element)
	}
	key := holderKey(s.Element, s.Holder, s.Ephemeral)
	row, ok := tx.Get(SegmentHolders, key)
	if !ok {
		return nil, errs.New(errs.StaleToken, "%s holds no segment of this generator", s.Holder)
	}
	h, err := decodeSegmentHolder(row)
	if err != nil {
		return nil, err
	}
	if h.nonce != s.Nonce || s.Nonce == 0 {
		return nil, errs.New(errs.StaleToken, "%s has given its segment back already, or has leased a newer one", s.Holder)
	}
	low := uint64(0)
	for _, b := range s.Blocks {
		if b.Lo >= b.Hi || b.Lo < low || b.Lo < c.start || b.Hi > h.block.Hi {
			return nil, errs.Invalid("blocks", itoa(b.Lo)+" to "+itoa(b.Hi), "ascending parts of the blocks that were leased")
		}
		low = b.Hi
	}
	// Writes from here on.
	for _, b := range s.Blocks {
		tx.Put(FreeBlocks, freeKey(s.Element, b.Lo), binary.BigEndian.AppendUint64(nil, b.Hi))
	}
	c.shrink(tx, s.Element)
	if s.Ephemeral {
		tx.Delete(SegmentHolders, key)
		return nil, nil
	}
	if len(s.Blocks) > 0 {
		h.last = s.Blocks[0].Lo - 1
	}
	h.nonce = 0
	tx.Put(SegmentHolders, key, h.encode())
	return nil, nil
}

// shrink takes free blocks at the top of the space back into it.
func (c counter) shrink(tx *state.Tx, element uint32) {
	was := c.next
	for {
		var top uint64
		found := false
		tx.ScanReverse(FreeBlocks, elementKey(element), elementKey(element+1), func(k, v []byte) bool {
			top = binary.BigEndian.Uint64(k[4:])
			found = binary.BigEndian.Uint64(v) == c.next
			return false
		})
		if !found {
			break
		}
		tx.Delete(FreeBlocks, freeKey(element, top))
		c.next = top
	}
	if c.next != was {
		c.put(tx, element)
	}
}
