// Package table is the replicated part of areas: the tables, the appliers that
// change them, and the index that answers for the tree.
//
// It owns the bytes of rows and payloads, which are only ever appended to.
// Appliers are pure: they read the transaction, the command and constants, check
// first and write last. Only package areas imports it.
package table

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse/areas/api"
)

// The tables.
const (
	Areas    state.TableID = 0x90 // name → api.Area, JSON; the root only once it was described
	Children state.TableID = 0x91 // parent, 0, name → nothing
	Meta     state.TableID = 0x92 // "tree" → revision of the last change, number of rows in Areas
)

// The commands. Their results are api.Area as JSON, of delete the deleted one.
const (
	KindCreate command.Kind = 0x2040 // api.CreateRequest, JSON
	KindUpdate command.Kind = 0x2041 // api.UpdateRequest, JSON
	KindDelete command.Kind = 0x2042 // api.DeleteRequest, JSON
)

// Event is what watchers get; its key is the area's name.
type Event struct {
	Area    api.Area
	Deleted bool
}

// Users tells whether something stands in an area, which then cannot be deleted.
// Services add theirs when they register, all nodes the same.
type Users struct{ list []user }

type user struct {
	name string
	uses func(r state.Reader, area string) bool
}

// Add adds a user under a name that the refusal shows, such as "config items".
// uses is called by the applier and reads nothing but r.
func (u *Users) Add(name string, uses func(r state.Reader, area string) bool) {
	u.list = append(u.list, user{name: name, uses: uses})
}

// Register declares tables, appliers and index.
func Register(reg *state.Registry) *Users {
	users := &Users{}
	reg.Table(Areas, "areas")
	reg.Table(Children, "area_children")
	reg.Table(Meta, "area_meta")
	reg.Handle(KindCreate, "area_create", 1, applyCreate)
	reg.Handle(KindUpdate, "area_update", 1, applyUpdate)
	reg.Handle(KindDelete, "area_delete", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
		return applyDelete(tx, cmd, users)
	})
	reg.AddIndex(IndexName, []state.TableID{Areas, Meta}, func() state.Index { return newIndex() })
	return users
}

// decode fails with a plain error, which halts the node: what cannot be decoded
// was never written by this program.
func decode(what string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("areas: %s: %w", what, err)
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

// DecodeArea reads a result.
func DecodeArea(b []byte) (a api.Area, err error) { return a, decode("area", b, &a) }

var metaKey = []byte("tree")

type meta struct{ revision, rows uint64 }

func decodeMeta(b []byte) (m meta, err error) {
	var n, w int
	if m.revision, n = binary.Uvarint(b); n > 0 {
		m.rows, w = binary.Uvarint(b[n:])
	}
	if w <= 0 {
		return m, fmt.Errorf("areas: a meta row of %d bytes", len(b))
	}
	return m, nil
}

func readMeta(r state.Reader) (m meta, err error) {
	if b, ok := r.Get(Meta, metaKey); ok {
		return decodeMeta(b)
	}
	return m, nil
}

// Get reads an area; the root exists without a row.
func Get(r state.Reader, name string) (a api.Area, ok bool, err error) {
	b, ok := r.Get(Areas, []byte(name))
	if !ok {
		return api.Area{Name: name}, name == api.Root, nil
	}
	a, err = DecodeArea(b)
	return a, err == nil, err
}

// Exists tells whether there is such an area.
func Exists(r state.Reader, name string) bool {
	if name == api.Root {
		return true
	}
	_, ok := r.Get(Areas, []byte(name))
	return ok
}

// Levels gives the area and those above it up to the root, nil for an unknown one.
func Levels(r state.Reader, name string) ([]string, error) {
	var out []string
	for len(out) <= api.MaxDepth {
		a, ok, err := Get(r, name)
		if err != nil || !ok {
			return nil, err
		}
		out = append(out, name)
		if name == api.Root {
			return out, nil
		}
		name = a.Parent
	}
	return nil, fmt.Errorf("areas: %q stands deeper than %d", name, api.MaxDepth)
}

func childKey(parent, name string) []byte {
	return append(append([]byte(parent), 0), name...)
}

func children(r state.Reader, parent string) []string {
	var out []string
	start := childKey(parent, "")
	end := append([]byte(parent), 1)
	r.Scan(Children, start, end, func(k, _ []byte) bool {
		out = append(out, string(k[len(start):]))
		return true
	})
	return out
}

// height is the number of levels in the tree below and with name.
func height(r state.Reader, name string, left int) int {
	h := 0
	if left > 0 {
		for _, c := range children(r, name) {
			h = max(h, height(r, c, left-1))
		}
	}
	return h + 1
}

// NotFound is the answer for an unknown area.
func NotFound(field, name string) error {
	return errs.New(errs.NotFound, "%s: there is no area named %q", field, name).With(errs.Detail{Field: field, Value: name})
}

func tooDeep(field, value string, depth int) error {
	return errs.New(errs.InvalidArgument, "%s: below %q the tree would be %d levels deep: at most %d", field, value, depth, api.MaxDepth).
		With(errs.Detail{Field: field, Value: value, Limit: fmt.Sprintf("at most %d levels", api.MaxDepth)})
}

func stamp(tx *state.Tx, cmd *command.Command, a *api.Area) {
	a.Revision = tx.Next()
	a.Updated = time.Unix(0, tx.Time()).UTC().Format(time.RFC3339Nano)
	a.Actor = cmd.Actor
}

// put writes an area, and moves it when its parent is another than before.
func put(tx *state.Tx, a api.Area, old string, isNew bool, m meta) []byte {
	b := Encode(a)
	if a.Parent != old || isNew && a.Name != api.Root {
		if !isNew && old != "" {
			tx.Delete(Children, childKey(old, a.Name))
		}
		tx.Put(Children, childKey(a.Parent, a.Name), nil)
	}
	if isNew {
		m.rows++
	}
	tx.Put(Areas, []byte(a.Name), b)
	putMeta(tx, m)
	tx.Emit(watch.TopicArea, []byte(a.Name), Event{Area: a})
	return b
}

func putMeta(tx *state.Tx, m meta) {
	tx.Put(Meta, metaKey, binary.AppendUvarint(binary.AppendUvarint(nil, tx.Next()), m.rows))
}

func applyCreate(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var p api.CreateRequest
	if err := decode("create", cmd.Payload, &p); err != nil {
		return nil, err
	}
	if Exists(tx, p.Name) {
		return nil, errs.New(errs.AlreadyExists, "name: the area %q exists already", p.Name).With(errs.Detail{Field: "name", Value: p.Name})
	}
	above, err := Levels(tx, p.Parent)
	if err != nil {
		return nil, err
	}
	if above == nil {
		return nil, NotFound("parent", p.Parent)
	}
	if len(above) >= api.MaxDepth {
		return nil, tooDeep("parent", p.Parent, len(above)+1)
	}
	m, err := readMeta(tx)
	if err != nil {
		return nil, err
	}
	a := api.Area{Name: p.Name, Parent: p.Parent, Description: p.Description, CreatedRevision: tx.Next()}
	stamp(tx, cmd, &a)
	a.Created = a.Updated
	return put(tx, a, "", true, m), nil
}

func applyUpdate(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var p api.UpdateRequest
	if err := decode("update", cmd.Payload, &p); err != nil {
		return nil, err
	}
	a, err := existing(tx, p.Name, p.IfRevision)
	if err != nil {
		return nil, err
	}
	was := a
	if p.Description != nil {
		a.Description = *p.Description
	}
	if p.Parent != nil && *p.Parent != a.Parent {
		if err := checkMove(tx, p.Name, *p.Parent); err != nil {
			return nil, err
		}
		a.Parent = *p.Parent
	}
	if a == was {
		return Encode(a), nil
	}
	m, err := readMeta(tx)
	if err != nil {
		return nil, err
	}
	_, stored := tx.Get(Areas, []byte(p.Name))
	stamp(tx, cmd, &a)
	return put(tx, a, was.Parent, !stored, m), nil
}

func existing(tx *state.Tx, name string, ifRevision *uint64) (api.Area, error) {
	a, ok, err := Get(tx, name)
	if err != nil {
		return a, err
	}
	if !ok {
		return a, NotFound("name", name)
	}
	if ifRevision != nil && *ifRevision != a.Revision {
		return a, errs.New(errs.RevisionMismatch, "if_revision: the area %q is at revision %d, not %d", name, a.Revision, *ifRevision).
			With(errs.Detail{Field: "if_revision", Value: fmt.Sprint(*ifRevision), Limit: fmt.Sprint(a.Revision)})
	}
	return a, nil
}

func checkMove(tx *state.Tx, name, parent string) error {
	if name == api.Root {
		return errs.New(errs.Conflict, "parent: the area %q is the root and cannot be moved", name).With(errs.Detail{Field: "parent", Value: parent})
	}
	above, err := Levels(tx, parent)
	if err != nil {
		return err
	}
	if above == nil {
		return NotFound("parent", parent)
	}
	if parent == name {
		return errs.New(errs.Conflict, "parent: the area %q cannot stand below itself", name).
			With(errs.Detail{Field: "parent", Value: parent, Limit: "an area that is not below " + name})
	}
	for _, l := range above {
		if l == name {
			return errs.New(errs.Conflict, "parent: %q stands below %q, so moving it there would close a circle", parent, name).
				With(errs.Detail{Field: "parent", Value: parent, Limit: "an area that is not below " + name})
		}
	}
	if d := len(above) + height(tx, name, api.MaxDepth); d > api.MaxDepth {
		return tooDeep("parent", parent, d)
	}
	return nil
}

func applyDelete(tx *state.Tx, cmd *command.Command, users *Users) ([]byte, error) {
	var p api.DeleteRequest
	if err := decode("delete", cmd.Payload, &p); err != nil {
		return nil, err
	}
	if p.Name == api.Root {
		return nil, errs.New(errs.Conflict, "name: the area %q is the root and cannot be deleted", p.Name).With(errs.Detail{Field: "name", Value: p.Name})
	}
	a, err := existing(tx, p.Name, p.IfRevision)
	if err != nil {
		return nil, err
	}
	if c := children(tx, p.Name); len(c) > 0 {
		return nil, errs.New(errs.Conflict, "name: the area %q has areas below it, such as %q; delete or move them first", p.Name, c[0]).
			With(errs.Detail{Field: "name", Value: p.Name, Limit: "an area with nothing below it"})
	}
	for _, u := range users.list {
		if u.uses(tx, p.Name) {
			return nil, errs.New(errs.Conflict, "name: the area %q has %s; delete or move them first", p.Name, u.name).
				With(errs.Detail{Field: "name", Value: p.Name, Limit: "an area without " + u.name})
		}
	}
	m, err := readMeta(tx)
	if err != nil {
		return nil, err
	}
	stamp(tx, cmd, &a)
	m.rows--
	tx.Delete(Areas, []byte(a.Name))
	tx.Delete(Children, childKey(a.Parent, a.Name))
	putMeta(tx, m)
	tx.Emit(watch.TopicArea, []byte(a.Name), Event{Area: a, Deleted: true})
	return Encode(a), nil
}
