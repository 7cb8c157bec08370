// Package table is the replicated part of the configuration centre: the tables,
// the appliers that change them, and the index that answers for everything but
// contents.
//
// # Layout
//
//	conf_items      area 0 group 0 key      → Row, JSON
//	conf_contents   item id, slot, number   → bytes
//	conf_history    item id, number         → api.Release, JSON
//	conf_schedule   time, item id           → item's key in conf_items
//	conf_groups     name                    → api.Group, JSON
//	conf_scopes     name                    → api.Scope, JSON
//	conf_meta       "m"                     → counters
//	conf_listeners  node                    → Report, JSON
//
// An item keeps its id and its numbers over its deletion, until the retention
// forgets it. What has been validated (types, schemas, rules) was so before it was
// proposed; appliers check the state only.
//
// Appliers are pure: they read the transaction, the command and constants, check
// first and write last. Only package conf imports it.
package table

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/warehouse/conf/api"
)

// The tables.
const (
	Items     state.TableID = 0x98
	Contents  state.TableID = 0x99
	History   state.TableID = 0x9a
	Schedule  state.TableID = 0x9b
	Groups    state.TableID = 0x9c
	Scopes    state.TableID = 0x9d
	Meta      state.TableID = 0x9e
	Listeners state.TableID = 0x9f
)

// The commands.
const (
	KindWrite       command.Kind = 0x2050 // Batch → Written, JSON
	KindPrune       command.Kind = 0x2051 // Prune, JSON
	KindGroupPut    command.Kind = 0x2052 // api.Group, JSON → api.Group, JSON
	KindGroupDelete command.Kind = 0x2053 // name
	KindScopePut    command.Kind = 0x2054 // api.Scope, JSON → api.Scope, JSON
	KindScopeDelete command.Kind = 0x2055 // name
	KindReport      command.Kind = 0x2056 // Report, JSON
	KindForget      command.Kind = 0x2057 // time before which a report is forgotten, 8 bytes
)

// Areas is what appliers need of the tree of areas.
type Areas interface {
	Exists(r state.Reader, area string) bool
	AddUser(name string, uses func(r state.Reader, area string) bool)
}

// Register declares tables, appliers and index.
func Register(reg *state.Registry, areas Areas) {
	reg.Table(Items, "conf_items")
	reg.Table(Contents, "conf_contents")
	reg.Table(History, "conf_history")
	reg.Table(Schedule, "conf_schedule")
	reg.Table(Groups, "conf_groups")
	reg.Table(Scopes, "conf_scopes")
	reg.Table(Meta, "conf_meta")
	reg.Table(Listeners, "conf_listeners")
	reg.Handle(KindWrite, "conf_write", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
		return applyWrite(tx, cmd, areas)
	})
	reg.Handle(KindPrune, "conf_prune", 1, applyPrune)
	reg.Handle(KindGroupPut, "conf_group_put", 1, applyGroupPut)
	reg.Handle(KindGroupDelete, "conf_group_delete", 1, applyGroupDelete)
	reg.Handle(KindScopePut, "conf_scope_put", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
		return applyScopePut(tx, cmd, areas)
	})
	reg.Handle(KindScopeDelete, "conf_scope_delete", 1, applyScopeDelete)
	reg.Handle(KindReport, "conf_report", 1, applyReport)
	reg.Handle(KindForget, "conf_forget", 1, applyForget)
	reg.AddIndex(IndexName, []state.TableID{Items, Groups, Scopes, Meta}, func() state.Index { return newIndex() })
	areas.AddUser("config items", usesArea)
	areas.AddUser("scopes of the configuration centre", scopeUsesArea)
}

// Event is what listeners get: something changed, and it may concern them. Its key
// is the item's key in conf_items, or what the names below begin with.
type Event struct{}

// The keys of events that concern no item alone.
var (
	groupEvent = []byte{0, 'g'}
	scopeEvent = []byte{0, 's'}
)

// Row is an item as it stands in its table.
type Row struct {
	api.Item
	ID   uint64 `json:"id"`
	Last uint64 `json:"last"` // number of its last release
}

// Under is the hash of the item's schema, empty when it has none.
func (r *Row) Under() string {
	if r.Schema == nil {
		return ""
	}
	return r.Schema.Hash
}

// decode fails with a plain error, which halts the node: what cannot be decoded
// was never written by this program.
func decode(what string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("conf: %s: %w", what, err)
	}
	return nil
}

// Encode cannot fail for this package's structs.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// Decode reads a result.
func Decode[T any](b []byte) (v T, err error) { return v, decode("result", b, &v) }

// ItemKey is an item's key in its table. Names hold no zero bytes.
func ItemKey(a api.Address) []byte {
	k := make([]byte, 0, len(a.Area)+len(a.Group)+len(a.Key)+2)
	k = append(append(k, a.Area...), 0)
	k = append(append(k, a.Group...), 0)
	return append(k, a.Key...)
}

// Slots of contents.
const (
	SlotRelease   = 'r' // and the release's number
	SlotDraft     = 'd'
	SlotScheduled = 't'
	SlotGray      = 'g' // and the gray release's name
	SlotSchema    = 's'
)

func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func contentKey(id uint64, slot byte, rest ...byte) []byte {
	return append(append(idKey(id), slot), rest...)
}

// ReleaseKey, GrayKey and SlotKey are keys of contents.
func ReleaseKey(id, number uint64) []byte { return contentKey(id, SlotRelease, idKey(number)...) }

// GrayKey is the key of a gray release's content.
func GrayKey(id uint64, name string) []byte { return contentKey(id, SlotGray, []byte(name)...) }

// SlotKey is the key of a content that an item has one of.
func SlotKey(id uint64, slot byte) []byte { return contentKey(id, slot) }

func historyKey(id, number uint64) []byte { return binary.BigEndian.AppendUint64(idKey(id), number) }

func scheduleKey(at time.Time, id uint64) []byte {
	return binary.BigEndian.AppendUint64(idKey(uint64(at.UnixNano())), id)
}

// Content reads bytes; the slice is the state's.
func Content(r state.Reader, key []byte) ([]byte, bool) { return r.Get(Contents, key) }

// GetRow reads an item, deleted or not.
func GetRow(r state.Reader, a api.Address) (row Row, ok bool, err error) {
	b, ok := r.Get(Items, ItemKey(a))
	if !ok {
		return row, false, nil
	}
	err = decode("item row", b, &row)
	return row, err == nil, err
}

// GetRelease reads one line of the history.
func GetRelease(r state.Reader, id, number uint64) (rel api.Release, ok bool, err error) {
	b, ok := r.Get(History, historyKey(id, number))
	if !ok {
		return rel, false, nil
	}
	err = decode("history row", b, &rel)
	return rel, err == nil, err
}

// Releases calls fn with the releases before number, newest first, until it returns
// false. before 0 is all.
func Releases(r state.Reader, id, before uint64, fn func(api.Release) bool) error {
	end := idKey(id + 1)
	if before != 0 {
		end = historyKey(id, before)
	}
	var err error
	r.ScanReverse(History, idKey(id), end, func(_, v []byte) bool {
		var rel api.Release
		if err = decode("history row", v, &rel); err != nil {
			return false
		}
		return fn(rel)
	})
	return err
}

// Oldest is the number of the oldest release that is kept, 0 for none.
func Oldest(r state.Reader, id uint64) (number uint64) {
	r.Scan(History, idKey(id), idKey(id+1), func(k, _ []byte) bool {
		number = binary.BigEndian.Uint64(k[8:])
		return false
	})
	return number
}

// Due is the first content that is to be published at a time.
type Due struct {
	At  time.Time
	Key []byte // of the item
}

// FirstDue gives what is due first.
func FirstDue(r state.Reader) (d Due, ok bool) {
	r.Scan(Schedule, nil, nil, func(k, v []byte) bool {
		if len(k) == 16 {
			d.At = time.Unix(0, int64(binary.BigEndian.Uint64(k))).UTC()
			d.Key = append([]byte(nil), v...)
			ok = true
		}
		return false
	})
	return d, ok
}

// RowAt reads an item by its key.
func RowAt(r state.Reader, key []byte) (row Row, ok bool, err error) {
	b, ok := r.Get(Items, key)
	if !ok {
		return row, false, nil
	}
	err = decode("item row", b, &row)
	return row, err == nil, err
}

var metaKey = []byte("m")

// Counters are the counts and the revision of the configuration centre.
type Counters struct {
	NextID   uint64 `json:"next_id"`
	Items    uint64 `json:"items"`    // deleted ones are not counted
	Revision uint64 `json:"revision"` // of the last change that may concern a listener
}

// ReadCounters reads them.
func ReadCounters(r state.Reader) (c Counters, err error) {
	if b, ok := r.Get(Meta, metaKey); ok {
		err = decode("meta row", b, &c)
	}
	return c, err
}

func putCounters(tx *state.Tx, c Counters) {
	c.Revision = tx.Next()
	tx.Put(Meta, metaKey, Encode(c))
}

func stamp(tx *state.Tx, cmd *command.Command, comment string) api.Stamp {
	return api.Stamp{Revision: tx.Next(), Time: time.Unix(0, tx.Time()).UTC(), Actor: cmd.Actor, Comment: comment}
}

// NotFound is the answer for an unknown item.
func NotFound(a api.Address) error {
	return errs.New(errs.NotFound, "key: there is no item %s", a.Path()).With(errs.Detail{Field: "key", Value: a.Path()})
}

func usesArea(r state.Reader, area string) bool {
	used := false
	r.Scan(Items, append([]byte(area), 0), append([]byte(area), 1), func(_, v []byte) bool {
		var row Row
		if decode("item row", v, &row) != nil || !row.Deleted {
			used = true
		}
		return !used
	})
	return used
}

func scopeUsesArea(r state.Reader, area string) bool {
	used := false
	r.Scan(Scopes, nil, nil, func(_, v []byte) bool {
		var s api.Scope
		used = decode("scope row", v, &s) != nil || s.Area == area
		return !used
	})
	return used
}
