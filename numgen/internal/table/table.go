// Package table is numgen's part of the replicated state: its tables, its
// commands and their appliers.
//
// It owns the bytes of rows, payloads and results, which are only ever appended
// to. Appliers are pure: they read the transaction and the command and nothing
// else, check first and write last. Only numgen and its tests import it.
package table

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"nekoq/numgen/api"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/watch"
)

// The tables.
const (
	Generators     state.TableID = 0x40 // name → api.Generator, JSON
	Counters       state.TableID = 0x41 // element → counter
	Workers        state.TableID = 0x42 // worker number → workerRow, JSON
	Holders        state.TableID = 0x43 // holder → high-water time of a number it lost, Unix ms
	FreeBlocks     state.TableID = 0x44 // element, lo → hi: given back and not leased again
	SegmentHolders state.TableID = 0x45 // element, holder → segmentHolder
	Meta           state.TableID = 0x46 // "elements" → last element given out, number of generators
)

// The commands.
const (
	KindCreate        command.Kind = 0x1000 // createPayload, JSON → api.Generator, JSON
	KindUpdate        command.Kind = 0x1001 // api.UpdateRequest, JSON → api.Generator, JSON
	KindDelete        command.Kind = 0x1002 // name
	KindAcquireWorker command.Kind = 0x1003 // idgen.AcquireRequest, JSON → idgen.Grant, JSON
	KindExtendWorker  command.Kind = 0x1004 // idgen.ExtendRequest, JSON → idgen.Grant, JSON
	KindReleaseWorker command.Kind = 0x1005 // idgen.ReleaseRequest, JSON
	KindLeaseSegment  command.Kind = 0x1006 // SegmentLease → SegmentGrant
	KindReturnSegment command.Kind = 0x1007 // SegmentReturn
	KindAllocate      command.Kind = 0x1008 // Allocation → Allocated
)

// Register declares tables and appliers. Every node does, whatever it serves.
func Register(reg *state.Registry) {
	reg.Table(Generators, "numgen_generators")
	reg.Table(Counters, "numgen_counters")
	reg.Table(Workers, "numgen_workers")
	reg.Table(Holders, "numgen_holders")
	reg.Table(FreeBlocks, "numgen_free_blocks")
	reg.Table(SegmentHolders, "numgen_segment_holders")
	reg.Table(Meta, "numgen_meta")
	reg.Handle(KindCreate, "numgen_create", 1, applyCreate)
	reg.Handle(KindUpdate, "numgen_update", 1, applyUpdate)
	reg.Handle(KindDelete, "numgen_delete", 1, applyDelete)
	reg.Handle(KindAcquireWorker, "numgen_acquire_worker", 1, applyAcquire)
	reg.Handle(KindExtendWorker, "numgen_extend_worker", 1, applyExtend)
	reg.Handle(KindReleaseWorker, "numgen_release_worker", 1, applyRelease)
	reg.Handle(KindLeaseSegment, "numgen_lease_segment", 1, applyLeaseSegment)
	reg.Handle(KindReturnSegment, "numgen_return_segment", 1, applyReturnSegment)
	reg.Handle(KindAllocate, "numgen_allocate", 1, applyAllocate)
}

// Event is what watchers of a generator get; its key is the generator's name.
type Event struct {
	Generator api.Generator
	Deleted   bool
}

func emit(tx *state.Tx, g api.Generator, deleted bool) {
	tx.Emit(watch.TopicNumgen, []byte(g.Name), Event{Generator: g, Deleted: deleted})
}

// decodeJSON fails with a plain error, which halts the node: a payload or row
// that cannot be decoded was never written by this program.
func decodeJSON(what string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("numgen: %s: %w", what, err)
	}
	return nil
}

// encodeJSON cannot fail for this package's structs.
func encodeJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func elementKey(element uint32) []byte { return binary.BigEndian.AppendUint32(nil, element) }

func gone(element uint32) error {
	return errs.New(errs.NotFound, "the generator with element %d has been deleted", element)
}

// fields reads the varints and strings of a binary payload; bad is set for good
// by the first that is not there.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.bad = true
		f.b = nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) text() string {
	n := f.uvarint()
	if f.bad || n > uint64(len(f.b)) {
		f.bad = true
		f.b = nil
		return ""
	}
	s := string(f.b[:n])
	f.b = f.b[n:]
	return s
}

func (f *fields) err(what string) error {
	if f.bad {
		return fmt.Errorf("numgen: %s is cut short", what)
	}
	return nil
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}
