package table

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

// SystemPrefix is the part of the key space that belongs to the system: users'
// spans do not see it, and it counts toward no quota.
const SystemPrefix = "/_sys/"

var systemPrefix, systemEnd = []byte(SystemPrefix), []byte("/_sys0")

// DefaultLimit is the limit of the whole store in bytes until one is set.
const DefaultLimit = 8 << 30

// MaxQuotas bounds the prefixes with a quota.
const MaxQuotas = 10_000

// Quota is the quota of a prefix and what is used of it. A zero limit is none.
type Quota struct {
	Prefix     []byte
	MaxBytes   uint64 // of latest keys and values
	MaxKeys    uint64
	MaxWatches uint64 // open on one server
	WriteRate  uint64 // puts a second, averaged; bursts of one second pass

	Bytes, Keys uint64 // used
	tokens      uint64 // thousandths of a put that may be made now
	at          int64  // Unix nanoseconds of tokens
}

func quotaKey(prefix []byte) []byte { return append([]byte{'q'}, prefix...) }

func (q *Quota) write(tx *state.Tx) {
	b := append(make([]byte, 0, 48), 1)
	for _, v := range [...]uint64{q.MaxBytes, q.MaxKeys, q.MaxWatches, q.WriteRate, q.Bytes, q.Keys, q.tokens, uint64(q.at)} {
		b = binary.AppendUvarint(b, v)
	}
	tx.Put(TableQuota, quotaKey(q.Prefix), b)
}

func decodeQuota(k, v []byte) (q Quota, err error) {
	d := decoder{b: v}
	if d.byte() != 1 || len(k) == 0 {
		return q, ErrRecord
	}
	q.Prefix = append([]byte(nil), k[1:]...)
	var at uint64
	for _, f := range [...]*uint64{&q.MaxBytes, &q.MaxKeys, &q.MaxWatches, &q.WriteRate, &q.Bytes, &q.Keys, &q.tokens, &at} {
		*f = d.uvarint()
	}
	q.at = int64(at)
	if d.bad {
		return q, ErrRecord
	}
	return q, nil
}

// Quotas calls fn with every quota in the order of prefixes.
func Quotas(r state.Reader, fn func(q Quota) bool) error {
	var err error
	r.Scan(TableQuota, nil, nil, func(k, v []byte) bool {
		var q Quota
		if q, err = decodeQuota(k, v); err != nil {
			return false
		}
		return fn(q)
	})
	return err
}

// QuotasOf gives the quotas whose prefix begins key, the longest first.
func QuotasOf(r state.Reader, key []byte) (out []Quota, err error) {
	at := quotaKey(key)
	for {
		var k, v []byte
		r.ScanReverse(TableQuota, nil, append(bytes.Clone(at), 0), func(qk, qv []byte) bool {
			k, v = qk, qv
			return false
		})
		if k == nil {
			return out, nil
		}
		if n := common(k, at); n < len(k) {
			at = at[:n] // no prefix of key is longer than what the two share
			if n == 0 {
				return out, nil
			}
			continue
		}
		q, err := decodeQuota(k, v)
		if err != nil {
			return nil, err
		}
		out = append(out, q)
		if len(k) == 1 {
			return out, nil
		}
		at = at[:len(k)-1]
	}
}

func common(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// touch gives the places in w.used of the quotas that key counts toward.
func (w *writer) touch(key []byte) []int {
	if w.meta.Quotas == 0 || bytes.HasPrefix(key, systemPrefix) {
		return nil
	}
	found, err := QuotasOf(w.tx, key)
	if err != nil {
		panic(err) // a damaged row halts the node
	}
	var out []int
next:
	for _, q := range found {
		for i := range w.used {
			if bytes.Equal(w.used[i].Prefix, q.Prefix) {
				out = append(out, i)
				continue next
			}
		}
		w.used = append(w.used, q)
		out = append(out, len(w.used)-1)
	}
	return out
}

// account follows a change of a key in its quotas.
func (w *writer) account(key []byte, keys, size int64) {
	for _, i := range w.touch(key) {
		q := &w.used[i]
		q.Keys = uint64(max(int64(q.Keys)+keys, 0))
		q.Bytes = uint64(max(int64(q.Bytes)+size, 0))
	}
}

// growth sums what a command will add before it writes anything.
type growth struct {
	w     *writer
	bytes int64   // of the whole store's latest keys and values
	puts  int64   // a put also grows the history
	of    []delta // by place in w.used
	made  []made  // by a transaction
}

type delta struct{ keys, bytes, puts int64 }

func (g *growth) add(key []byte, d delta) {
	g.bytes += d.bytes
	g.puts += d.puts
	for _, i := range g.w.touch(key) {
		for len(g.of) <= i {
			g.of = append(g.of, delta{})
		}
		g.of[i].keys += d.keys
		g.of[i].bytes += d.bytes
		g.of[i].puts += d.puts
	}
}

func (g *growth) put(key []byte, size int, exists bool, old int) {
	if exists {
		g.add(key, delta{bytes: int64(size - old), puts: 1})
		return
	}
	g.add(key, delta{keys: 1, bytes: int64(len(key) + size), puts: 1})
}

func (g *growth) remove(key []byte, size int) {
	g.add(key, delta{keys: -1, bytes: -int64(len(key) + size)})
}

// check refuses growth over a limit, and takes the puts off the rates' tokens.
func (g *growth) check() error {
	m := &g.w.meta
	if limit := m.limit(); g.puts > 0 && m.Used()+uint64(max(g.bytes, 0)) >= limit {
		return errs.New(errs.QuotaExceeded, "the store is full: %d of %d bytes are used; delete keys or compact the history", m.Used(), limit).
			With(errs.Detail{Field: "store", Value: strconv.FormatUint(m.Used(), 10), Limit: strconv.FormatUint(limit, 10) + " bytes"})
	}
	for i, d := range g.of {
		q := &g.w.used[i]
		if d.bytes > 0 && q.MaxBytes > 0 && q.Bytes+uint64(d.bytes) > q.MaxBytes {
			return quotaError(q, "bytes", q.Bytes, q.MaxBytes)
		}
		if d.keys > 0 && q.MaxKeys > 0 && q.Keys+uint64(d.keys) > q.MaxKeys {
			return quotaError(q, "keys", q.Keys, q.MaxKeys)
		}
	}
	for i, d := range g.of {
		q := &g.w.used[i]
		if d.puts == 0 || q.WriteRate == 0 {
			continue
		}
		if !q.refill(g.w.time, uint64(d.puts)) {
			return errs.New(errs.TooManyRequests, "the quota of the prefix %q allows %d writes a second; try again after a pause", q.Prefix, q.WriteRate).
				With(errs.Detail{Field: "write_rate", Value: string(q.Prefix), Limit: strconv.FormatUint(q.WriteRate, 10) + " a second"})
		}
	}
	for i, d := range g.of {
		if q := &g.w.used[i]; q.WriteRate > 0 {
			q.tokens -= min(q.tokens, 1000*uint64(max(d.puts, 0)))
		}
	}
	return nil
}

func quotaError(q *Quota, what string, used, limit uint64) error {
	return errs.New(errs.QuotaExceeded, "the quota of the prefix %q is used up: %d of %d %s; delete keys below it or raise the quota", q.Prefix, used, limit, what).
		With(errs.Detail{Field: "max_" + what, Value: string(q.Prefix), Limit: strconv.FormatUint(limit, 10) + " " + what})
}

// refill adds the tokens of the time since the last look, and tells whether there
// are enough for n puts. A bucket that is full lets any number pass once, so that a
// transaction larger than the rate can be made at all.
func (q *Quota) refill(now int64, n uint64) bool {
	full := 1000 * q.WriteRate
	elapsed := uint64(max(now-q.at, 0))
	if q.at == 0 || elapsed >= 1e9 {
		q.tokens = full
	} else {
		q.tokens = min(full, q.tokens+elapsed*q.WriteRate/1e6)
	}
	q.at = now
	return q.tokens >= 1000*n || q.tokens == full
}

// Used is what the whole store takes: keys, values, history and log.
func (m *Meta) Used() uint64 { return m.Bytes + m.Past }

func (m *Meta) limit() uint64 {
	if m.Limit == 0 {
		return DefaultLimit
	}
	return m.Limit
}

// StoreLimit is the limit of the whole store in bytes.
func (m *Meta) StoreLimit() uint64 { return m.limit() }

// QuotaCommand is the payload of KindQuota. All limits zero removes the quota.
type QuotaCommand struct {
	Prefix                                   []byte
	MaxBytes, MaxKeys, MaxWatches, WriteRate uint64
}

// Encode gives the payload.
func (c *QuotaCommand) Encode() []byte {
	var b []byte
	for _, v := range [...]uint64{c.MaxBytes, c.MaxKeys, c.MaxWatches, c.WriteRate} {
		b = binary.AppendUvarint(b, v)
	}
	return append(b, c.Prefix...)
}

// MaxWriteRate bounds the write rate of a quota, in puts a second.
const MaxWriteRate = 1_000_000_000

func applyQuota(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	d := decoder{b: cmd.Payload}
	c := QuotaCommand{MaxBytes: d.uvarint(), MaxKeys: d.uvarint(), MaxWatches: d.uvarint(), WriteRate: d.uvarint()}
	c.Prefix = d.b
	if err := d.err("quota"); err != nil {
		return nil, err
	}
	if len(c.Prefix) > MaxKey {
		return nil, TooLarge("prefix", len(c.Prefix), MaxKey)
	}
	if c.WriteRate > MaxWriteRate {
		return nil, errs.Invalid("write_rate", c.WriteRate, "0 to "+strconv.Itoa(MaxWriteRate)+" a second")
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return nil, err
	}
	k := quotaKey(c.Prefix)
	row, exists := tx.Get(TableQuota, k)
	if c.MaxBytes|c.MaxKeys|c.MaxWatches|c.WriteRate == 0 {
		if !exists {
			return nil, errs.New(errs.NotFound, "the prefix %q has no quota", c.Prefix)
		}
		m.Quotas--
		tx.Delete(TableQuota, k)
		tx.Put(TableMeta, metaKey, m.encode())
		return nil, nil
	}
	q := Quota{Prefix: c.Prefix}
	if exists {
		if q, err = decodeQuota(k, row); err != nil {
			return nil, err
		}
	} else {
		if m.Quotas >= MaxQuotas {
			return nil, errs.New(errs.Exhausted, "there are %d quotas, the most there can be", m.Quotas)
		}
		q.measure(tx)
		m.Quotas++
		tx.Put(TableMeta, metaKey, m.encode())
	}
	q.MaxBytes, q.MaxKeys, q.MaxWatches, q.WriteRate = c.MaxBytes, c.MaxKeys, c.MaxWatches, c.WriteRate
	q.write(tx)
	return nil, nil
}

// measure sums up what is below the prefix, when its quota is made, from the count
// index: the largest prefix costs the reading of some hundred rows.
func (q *Quota) measure(tx *state.Tx) {
	counts := &tx.Index(IndexCount).(*countIndex).Counts
	start, end := q.Prefix, prefixEnd(q.Prefix)
	all := counts.Sum(tx, start, end)
	from, to := start, end // the system's part of it
	if bytes.Compare(from, systemPrefix) < 0 {
		from = systemPrefix
	}
	if to == nil || bytes.Compare(to, systemEnd) > 0 {
		to = systemEnd
	}
	system := counts.Sum(tx, from, to)
	q.Keys, q.Bytes = all.Keys-system.Keys, all.Bytes-system.Bytes
}

func applyLimit(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	d := decoder{b: cmd.Payload}
	n := d.uvarint()
	if err := d.err("limit"); err != nil {
		return nil, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return nil, err
	}
	m.Limit = n
	tx.Put(TableMeta, metaKey, m.encode())
	return nil, nil
}

func prefixEnd(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] < 0xff {
			end := append([]byte(nil), p[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}
