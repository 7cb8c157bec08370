package table

import (
	"encoding/binary"
	"slices"
	"time"

	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

// MaxWorkers is the size of the space of worker numbers.
const MaxWorkers = 1 << idgen.WideWorkerBits

// workerRow is one worker number. The row stays for ever: its high-water time
// is what keeps ids from coming twice.
type workerRow struct {
	Token     uint64 `json:"t,omitempty"` // 0 when given back
	Holder    string `json:"h"`           // present or last
	Ephemeral bool   `json:"e,omitempty"`
	Floor     int64  `json:"f"` // of the grant, Unix ms
	High      int64  `json:"w"` // high-water time, Unix ms
	Expires   int64  `json:"x"` // replicated Unix ms
}

func (w workerRow) held(tx state.Reader) bool {
	return w.Token != 0 && w.Expires > tx.Time()/int64(time.Millisecond)
}

func workerKey(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

func putWorker(tx *state.Tx, n int, w workerRow) { tx.Put(Workers, workerKey(n), encodeJSON(w)) }

// scanWorkers calls fn for the rows of [from, to).
func scanWorkers(r state.Reader, from, to int, fn func(n int, w workerRow) bool) error {
	var err error
	end := []byte(nil)
	if to < MaxWorkers {
		end = workerKey(to)
	}
	r.Scan(Workers, workerKey(from), end, func(k, v []byte) bool {
		var w workerRow
		if err = decodeJSON("worker row", v, &w); err != nil {
			return false
		}
		return fn(int(binary.BigEndian.Uint16(k)), w)
	})
	return err
}

// ListWorkers calls fn for every worker number from from on that was ever used.
func ListWorkers(r state.Reader, from int, fn func(api.WorkerInfo) bool) error {
	if from >= MaxWorkers {
		return nil
	}
	stamp := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(idgen.RFC3339ms) }
	return scanWorkers(r, from, MaxWorkers, func(n int, w workerRow) bool {
		i := api.WorkerInfo{Number: n, Holder: w.Holder, Held: w.held(r), Token: w.Token, HighWater: stamp(w.High)}
		if w.Token != 0 {
			i.Expires = stamp(w.Expires)
		}
		return fn(i)
	})
}

// pick is a free number, and the row it has had so far.
type pick struct {
	n   int
	old workerRow
}

// free finds the lowest free number whose high-water time has passed at now;
// where there is none, the free one with the lowest high-water time.
func free(tx *state.Tx, from, to int, now int64, not []int) (best pick, ok bool, err error) {
	next := from // lowest number that the scan has not come by
	err = scanWorkers(tx, from, to, func(n int, w workerRow) bool {
		if n > next {
			return false // next was never used
		}
		next = n + 1
		if w.held(tx) || slices.Contains(not, n) {
			return true
		}
		if !ok || w.High < best.old.High {
			best, ok = pick{n: n, old: w}, true
		}
		return w.High > now
	})
	if err != nil {
		return best, false, err
	}
	if ok && best.old.High <= now {
		return best, true, nil
	}
	if next < to {
		return pick{n: next}, true, nil
	}
	return best, ok, nil
}

func exhausted(from, to int) error {
	return errs.New(errs.Exhausted, "all worker numbers from %d to %d are held", from, to-1).
		With(errs.Detail{Field: "worker", Limit: itoa(from) + " to " + itoa(to-1), Help: "GET /v1/numgen/workers shows who holds them"})
}

func checkRange(from, to int, reserve int64) error {
	if from < 0 || from >= to || to > MaxWorkers {
		return errs.Invalid("max", to, "a range of worker numbers within 0 to "+itoa(MaxWorkers))
	}
	if reserve < 0 || reserve > int64(maxAheadOfCluster/time.Millisecond) {
		return errs.Invalid("reserve_ms", reserve, "0 to 24h")
	}
	return nil
}

func checkClock(tx *state.Tx, now int64) error {
	if ahead := now - tx.Time()/int64(time.Millisecond); ahead > int64(maxAheadOfCluster/time.Millisecond) {
		return clockAhead(time.Duration(min(ahead, int64(time.Hour)*24*365*100/int64(time.Millisecond))) * time.Millisecond)
	}
	return nil
}

// remember keeps the high-water time of a holder that loses its number, so that
// its ids still increase when it comes back under another one.
func remember(tx *state.Tx, p pick, by string) {
	if p.old.Holder == "" || p.old.Ephemeral || p.old.Holder == by {
		return
	}
	if high := holderHigh(tx, p.old.Holder); p.old.High > high {
		tx.Put(Holders, []byte(p.old.Holder), binary.BigEndian.AppendUint64(nil, uint64(p.old.High)))
	}
}

func holderHigh(r state.Reader, holder string) int64 {
	if b, ok := r.Get(Holders, []byte(holder)); ok {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// applyAcquire leases one worker number. A holder gets its own number again
// where it still has one, under a new token and after everything it was granted before.
func applyAcquire(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var r idgen.AcquireRequest
	if err := decodeJSON("acquire", cmd.Payload, &r); err != nil {
		return nil, err
	}
	if err := checkRange(r.Min, r.Max, r.ReserveMS); err != nil {
		return nil, err
	}
	if err := checkClock(tx, r.NowMS); err != nil {
		return nil, err
	}
	var own []pick
	if err := scanWorkers(tx, r.Min, r.Max, func(n int, w workerRow) bool {
		if w.Holder == r.Holder && w.Ephemeral == r.Ephemeral {
			own = append(own, pick{n: n, old: w})
		}
		return true
	}); err != nil {
		return nil, err
	}
	floor := holderHigh(tx, r.Holder)
	var got pick
	if len(own) > 0 {
		got = own[0]
	} else {
		p, ok, err := free(tx, r.Min, r.Max, r.NowMS, nil)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, exhausted(r.Min, r.Max)
		}
		got = p
	}
	floor = max(floor, got.old.High)
	for _, p := range own {
		floor = max(floor, p.old.High)
	}
	// Writes from here on.
	for _, p := range own[min(1, len(own)):] {
		p.old.Token, p.old.Expires = 0, 0
		putWorker(tx, p.n, p.old)
	}
	remember(tx, got, r.Holder)
	tx.Delete(Holders, []byte(r.Holder))
	w := workerRow{
		Token: tx.Next(), Holder: r.Holder, Ephemeral: r.Ephemeral, Floor: floor,
		High: max(r.NowMS, floor) + r.ReserveMS, Expires: expiry(tx, r.TTL),
	}
	putWorker(tx, got.n, w)
	return encodeJSON(idgen.Grant{Numbers: []uint16{uint16(got.n)}, Token: w.Token, Floor: floor, High: w.High}), nil
}

func expiry(tx *state.Tx, ttl time.Duration) int64 {
	return tx.Time()/int64(time.Millisecond) + ttl.Milliseconds()
}

// heldRows reads the rows of numbers and refuses a token that is no longer theirs.
func heldRows(tx *state.Tx, numbers []uint16, token uint64) ([]pick, error) {
	if len(numbers) == 0 || token == 0 {
		return nil, errs.Invalid("numbers", len(numbers), "at least one worker number, and its token")
	}
	picks := make([]pick, 0, len(numbers))
	for i, n := range numbers {
		if i > 0 && n <= numbers[i-1] {
			return nil, errs.Invalid("numbers", numbers, "worker numbers in ascending order")
		}
		p := pick{n: int(n)}
		b, ok := tx.Get(Workers, workerKey(p.n))
		if ok {
			if err := decodeJSON("worker row", b, &p.old); err != nil {
				return nil, err
			}
		}
		if !ok || p.old.Token != token {
			return nil, errs.New(errs.StaleToken, "worker %d is no longer held under token %d", n, token)
		}
		picks = append(picks, p)
	}
	return picks, nil
}

func applyExtend(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var r idgen.ExtendRequest
	if err := decodeJSON("extend", cmd.Payload, &r); err != nil {
		return nil, err
	}
	if err := checkRange(r.Min, r.Max, r.ReserveMS); err != nil {
		return nil, err
	}
	if err := checkClock(tx, r.NowMS); err != nil {
		return nil, err
	}
	rows, err := heldRows(tx, r.Numbers, r.Token)
	if err != nil {
		return nil, err
	}
	high := r.NowMS + r.ReserveMS
	numbers := make([]int, 0, len(rows)+1)
	for _, p := range rows {
		high = max(high, p.old.High)
		numbers = append(numbers, p.n)
	}
	var added []pick
	floor := int64(0)
	for len(numbers) < r.Count {
		p, ok, err := free(tx, r.Min, r.Max, r.NowMS, numbers)
		if err != nil {
			return nil, err
		}
		if !ok || p.old.High > r.NowMS {
			break // better fewer numbers than a jump of the holder's time
		}
		added = append(added, p)
		numbers = append(numbers, p.n)
		floor = max(floor, p.old.High)
	}
	// Writes from here on.
	expires := expiry(tx, r.TTL)
	for _, p := range rows {
		p.old.High, p.old.Expires = high, expires
		putWorker(tx, p.n, p.old)
	}
	for _, p := range added {
		remember(tx, p, r.Holder)
		putWorker(tx, p.n, workerRow{Token: r.Token, Holder: r.Holder, Ephemeral: r.Ephemeral, Floor: p.old.High, High: high, Expires: expires})
	}
	slices.Sort(numbers)
	g := idgen.Grant{Token: r.Token, Floor: floor, High: high}
	for _, n := range numbers {
		g.Numbers = append(g.Numbers, uint16(n))
	}
	return encodeJSON(g), nil
}

// applyRelease gives numbers back. The high-water time comes down to the last
// id's: nobody makes ids under them any more.
func applyRelease(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var r idgen.ReleaseRequest
	if err := decodeJSON("release", cmd.Payload, &r); err != nil {
		return nil, err
	}
	rows, err := heldRows(tx, r.Numbers, r.Token)
	if err != nil {
		return nil, err
	}
	for _, p := range rows {
		p.old.High = min(p.old.High, max(r.LastMS, p.old.Floor))
		p.old.Token, p.old.Expires = 0, 0
		putWorker(tx, p.n, p.old)
	}
	return nil, nil
}

// DecodeGrant reads the result of acquire and extend.
func DecodeGrant(b []byte) (g idgen.Grant, err error) { return g, decodeJSON("grant", b, &g) }

// Encode is the payload of a worker command.
func Encode(request any) []byte { return encodeJSON(request) }
