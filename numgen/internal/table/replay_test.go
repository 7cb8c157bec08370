package table

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/command"
	"nekoq/services/testkit/replay"
)

// commands is a log of every kind of command, many of which are refused.
func commands(n int, seed uint64) []command.Command {
	r := rand.New(rand.NewPCG(seed, 7))
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var out []command.Command
	add := func(kind command.Kind, payload []byte) {
		now = now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
		out = append(out, command.Command{Kind: kind, Time: now.UnixNano(), Payload: payload})
	}
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	for range n {
		name := pick("a", "b", "c", "d.e")
		element := uint32(1 + r.IntN(6))
		holder := pick("node:a", "node:b", "client:c")
		ephemeral := holder == "client:c"
		ms := now.Add(time.Duration(r.IntN(40)-20) * time.Hour).UnixMilli()
		switch r.IntN(9) {
		case 0:
			add(KindCreate, Create(api.Generator{Name: name, Kind: pick("sequence", "segment", "id128"), Options: api.Options{Start: 1, MinStep: 1, MaxStep: 100}}))
		case 1:
			d, step := fmt.Sprint(r.IntN(3)), int64(r.IntN(200))
			add(KindUpdate, Update(api.UpdateRequest{Name: name, Description: &d, MinStep: &step}))
		case 2:
			if r.IntN(4) == 0 {
				add(KindDelete, []byte(name))
			}
		case 3:
			add(KindAcquireWorker, Encode(idgen.AcquireRequest{Holder: holder, Ephemeral: ephemeral, Max: 4, NowMS: ms, ReserveMS: 5000, TTL: 10 * time.Second}))
		case 4:
			add(KindExtendWorker, Encode(idgen.ExtendRequest{Holder: holder, Ephemeral: ephemeral, Numbers: []uint16{uint16(r.IntN(4))}, Token: uint64(len(out) - r.IntN(8)), Max: 4, Count: 2, NowMS: ms, ReserveMS: 5000, TTL: 10 * time.Second}))
		case 5:
			add(KindReleaseWorker, Encode(idgen.ReleaseRequest{Numbers: []uint16{uint16(r.IntN(4))}, Token: uint64(len(out) - r.IntN(8)), LastMS: ms}))
		case 6:
			add(KindLeaseSegment, SegmentLease{Element: element, Holder: holder, Ephemeral: ephemeral, Step: uint64(1 + r.IntN(50)), Nonce: uint64(1 + r.IntN(4)), After: uint64(r.IntN(20))}.Append(nil))
		case 7:
			lo := uint64(1 + r.IntN(100))
			add(KindReturnSegment, SegmentReturn{Element: element, Holder: holder, Ephemeral: ephemeral, Nonce: uint64(1 + r.IntN(4)), Blocks: []idgen.Block{{Lo: lo, Hi: lo + uint64(r.IntN(20))}}}.Append(nil))
		default:
			add(KindAllocate, Allocation{Element: element, N: uint64(1 + r.IntN(10)), Period: uint64(r.IntN(3)), PeriodStart: uint64(ms / 1000), AtMS: uint64(ms)}.Append(nil))
		}
	}
	return out
}

// The same log gives the same state, however it is split, restarted or snapshot.
func TestReplay(t *testing.T) {
	for seed := range uint64(3) {
		out := replay.Check(t, Register, commands(400, seed))
		kinds := map[bool]int{}
		for _, r := range out.Results {
			kinds[r.Err == nil]++
		}
		if kinds[true] < 50 || kinds[false] < 50 || len(out.Events) == 0 {
			t.Fatalf("the log says too little: %v done and refused, %d events", kinds, len(out.Events))
		}
	}
}
