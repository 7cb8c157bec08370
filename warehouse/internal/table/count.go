package table

import (
	"bytes"
	"sort"

	"nekoq/services/state"
)

// IndexCount names the index that counts keys.
const IndexCount = "warehouse_count"

// Counting: kv is cut into blocks of neighbouring keys, and the index holds the
// first key, the number of keys and the bytes of each block, not the keys. A count
// sums whole blocks and walks the two that the range cuts. A million keys are about 10,000 blocks.
const (
	blockSplit = 128 // keys at which a block is halved
	blockMerge = 24  // keys below which a block joins its neighbour
	chunkSplit = 128 // blocks at which a chunk is halved
)

type block struct {
	first string // least key that belongs to it; "" for the first of all
	bytes int64  // of keys and values
	keys  int32
}

// chunk is some neighbouring blocks, never empty. It is changed in place only while
// its epoch is the index's, else copied first: frozen copies share it.
type chunk struct {
	epoch  uint64
	keys   int
	bytes  int64
	blocks []block
}

// sum makes the totals of the blocks.
func (c *chunk) sum() {
	c.keys, c.bytes = 0, 0
	for i := range c.blocks {
		c.keys += int(c.blocks[i].keys)
		c.bytes += c.blocks[i].bytes
	}
}

// Counts is the frozen index: an immutable copy for one view.
type Counts struct {
	chunks []*chunk
}

// countIndex is the live one.
type countIndex struct {
	Counts
	epoch  uint64
	shared bool // chunks is shared with a frozen copy
}

func newCountIndex() state.Index {
	x := &countIndex{epoch: 1}
	x.clear()
	return x
}

func (x *countIndex) clear() {
	x.chunks = []*chunk{{epoch: x.epoch, blocks: []block{{}}}}
	x.shared = false
}

// Rebuild counts kv anew.
func (x *countIndex) Rebuild(r state.Reader) {
	x.clear()
	var blocks []block
	b := block{}
	state.ScanOnce(r, TableKV, func(k, v []byte) bool {
		if b.keys == blockSplit*3/4 {
			blocks = append(blocks, b)
			b = block{first: string(k)}
		}
		b.keys++
		b.bytes += int64(len(k) + valueLen(v))
		return true
	})
	blocks = append(blocks, b)
	const full = chunkSplit * 3 / 4
	x.chunks = x.chunks[:0]
	for len(blocks) > 0 {
		n := min(full, len(blocks))
		c := &chunk{epoch: x.epoch, blocks: append(make([]block, 0, chunkSplit+1), blocks[:n]...)}
		c.sum()
		x.chunks = append(x.chunks, c)
		blocks = blocks[n:]
	}
}

// Freeze shares what there is; the next change copies what it touches.
func (x *countIndex) Freeze() any {
	x.epoch++
	x.shared = true
	return &Counts{chunks: x.chunks}
}

// Change is not called: ChangeRow stands for it.
func (x *countIndex) Change(state.TableID, []byte, []byte) {
	panic("warehouse: the count index follows rows with a reader")
}

// ChangeRow follows a row of kv in the number of keys; resize does in the bytes,
// since a row does not tell how large the one before it was. A put is of a new key
// when its version is 1, and rows are deleted only where they are.
func (x *countIndex) ChangeRow(r state.Reader, _ state.TableID, key, value []byte) {
	switch {
	case value == nil:
		x.add(r, key, -1)
	case isFirstVersion(value):
		x.add(r, key, 1)
	}
}

func isFirstVersion(row []byte) bool {
	rec, err := DecodeRecord(row)
	return err == nil && rec.Version == 1
}

// find gives the chunk and the block that key belongs to.
func (c *Counts) find(key []byte) (ci, bi int) {
	ci = sort.Search(len(c.chunks), func(i int) bool { return c.chunks[i].blocks[0].first > string(key) }) - 1
	bs := c.chunks[ci].blocks
	return ci, sort.Search(len(bs), func(i int) bool { return bs[i].first > string(key) }) - 1
}

// own makes chunk ci changeable.
func (x *countIndex) own(ci int) *chunk {
	if x.shared {
		x.chunks = append(make([]*chunk, 0, len(x.chunks)+8), x.chunks...)
		x.shared = false
	}
	c := x.chunks[ci]
	if c.epoch != x.epoch {
		c = &chunk{epoch: x.epoch, keys: c.keys, bytes: c.bytes, blocks: append(make([]block, 0, chunkSplit+1), c.blocks...)}
		x.chunks[ci] = c
	}
	return c
}

// resize follows the bytes of a key and its value, before the row is written.
func (x *countIndex) resize(key []byte, n int64) {
	if n == 0 {
		return
	}
	ci, bi := x.find(key)
	c := x.own(ci)
	c.bytes += n
	c.blocks[bi].bytes += n
}

func (x *countIndex) add(r state.Reader, key []byte, n int32) {
	ci, bi := x.find(key)
	c := x.own(ci)
	c.keys += int(n)
	c.blocks[bi].keys += n
	switch keys := c.blocks[bi].keys; {
	case keys >= blockSplit:
		x.split(r, ci, bi)
	case n < 0 && keys < blockMerge:
		x.merge(ci, bi)
	}
}

// split halves a block, and its chunk when that is full.
func (x *countIndex) split(r state.Reader, ci, bi int) {
	c := x.chunks[ci]
	b := &c.blocks[bi]
	half, n, size := b.keys/2, int32(0), int64(0)
	var middle string
	r.Scan(TableKV, []byte(b.first), x.after(ci, bi), func(k, v []byte) bool {
		if n == half {
			middle = string(k)
			return false
		}
		n++
		size += int64(len(k) + valueLen(v))
		return true
	})
	next := block{first: middle, keys: b.keys - half, bytes: b.bytes - size}
	b.keys, b.bytes = half, size
	c.blocks = append(c.blocks, block{})
	copy(c.blocks[bi+2:], c.blocks[bi+1:])
	c.blocks[bi+1] = next
	if len(c.blocks) < chunkSplit {
		return
	}
	at := len(c.blocks) / 2
	upper := &chunk{epoch: x.epoch, blocks: append(make([]block, 0, chunkSplit+1), c.blocks[at:]...)}
	upper.sum()
	clear(c.blocks[at:])
	c.blocks = c.blocks[:at]
	c.keys -= upper.keys
	c.bytes -= upper.bytes
	x.chunks = append(x.chunks, nil)
	copy(x.chunks[ci+2:], x.chunks[ci+1:])
	x.chunks[ci+1] = upper
}

// merge lets a small block join the one before it in its chunk, or the chunk's
// second block the first. The last block of a chunk stays, unless the chunk is empty
// and not the first.
func (x *countIndex) merge(ci, bi int) {
	c := x.chunks[ci]
	if len(c.blocks) == 1 {
		if c.keys == 0 && ci > 0 {
			x.chunks = append(x.chunks[:ci], x.chunks[ci+1:]...)
		}
		return
	}
	if bi == 0 {
		bi = 1
	}
	if c.blocks[bi-1].keys+c.blocks[bi].keys >= blockSplit*3/4 {
		return
	}
	c.blocks[bi-1].keys += c.blocks[bi].keys
	c.blocks[bi-1].bytes += c.blocks[bi].bytes
	copy(c.blocks[bi:], c.blocks[bi+1:])
	c.blocks[len(c.blocks)-1] = block{}
	c.blocks = c.blocks[:len(c.blocks)-1]
}

// after is where a block ends: nil for the last.
func (c *Counts) after(ci, bi int) []byte {
	if bs := c.chunks[ci].blocks; bi+1 < len(bs) {
		return []byte(bs[bi+1].first)
	}
	if ci+1 < len(c.chunks) {
		return []byte(c.chunks[ci+1].blocks[0].first)
	}
	return nil
}

// Count gives the number of kv rows in [start, end); end nil is no bound. r is the
// reader that the counts belong to.
func (c *Counts) Count(r state.Reader, start, end []byte) uint64 {
	return c.Sum(r, start, end).Keys
}

// Sum is what a range holds: its keys, and the bytes of them and their values.
type Sum struct{ Keys, Bytes uint64 }

func (s *Sum) add(keys int, bytes int64) {
	s.Keys += uint64(keys)
	s.Bytes += uint64(bytes)
}

// Sum adds the kv rows in [start, end) up; end nil is no bound. It reads the rows of
// two blocks at most, some 250, however large the range is.
func (c *Counts) Sum(r state.Reader, start, end []byte) (s Sum) {
	if end != nil && bytes.Compare(start, end) >= 0 {
		return s
	}
	sc, sb := c.find(start)
	ec, eb := len(c.chunks), 0
	if end != nil {
		ec, eb = c.find(end)
	}
	if sc == ec && sb == eb {
		return walk(r, start, end)
	}
	// The head block from start on, whole blocks, the tail block up to end.
	s = walk(r, start, c.after(sc, sb))
	for i := sc; i <= ec && i < len(c.chunks); i++ {
		bs := c.chunks[i].blocks
		lo, hi := 0, len(bs)
		if i == sc {
			lo = sb + 1
		}
		if i == ec {
			hi = eb
		}
		if lo == 0 && hi == len(bs) {
			s.add(c.chunks[i].keys, c.chunks[i].bytes)
			continue
		}
		for j := lo; j < hi; j++ {
			s.add(int(bs[j].keys), bs[j].bytes)
		}
	}
	if ec < len(c.chunks) {
		tail := walk(r, []byte(c.chunks[ec].blocks[eb].first), end)
		s.add(int(tail.Keys), int64(tail.Bytes))
	}
	return s
}

func walk(r state.Reader, start, end []byte) (s Sum) {
	if len(start) == 0 {
		start = nil
	}
	r.Scan(TableKV, start, end, func(k, v []byte) bool {
		s.add(1, int64(len(k)+valueLen(v)))
		return true
	})
	return s
}
