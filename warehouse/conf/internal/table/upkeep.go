package table

import (
	"encoding/binary"
	"fmt"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse/conf/api"
)

// Prune is what the retention gives up. The leader finds it; a line names exactly
// what may go, so that nothing goes that came after it looked.
type Prune struct {
	Items []PruneItem `json:"items"`
}

// PruneItem gives up the releases of an item up to and with Through. The one that
// is published stays. Forget also gives up the item, when it is deleted and at
// Revision still.
type PruneItem struct {
	api.Address
	Through  uint64 `json:"through"`
	Forget   bool   `json:"forget,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
}

func applyPrune(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var p Prune
	if err := decode("prune", cmd.Payload, &p); err != nil {
		return nil, err
	}
	rows := make([]Row, len(p.Items))
	for i, it := range p.Items {
		row, ok, err := GetRow(tx, it.Address)
		if err != nil {
			return nil, err
		}
		if ok {
			rows[i] = row
		}
	}
	for i, it := range p.Items {
		if row := &rows[i]; row.ID != 0 {
			pruneItem(tx, it, row)
		}
	}
	return nil, nil
}

func pruneItem(tx *state.Tx, it PruneItem, row *Row) {
	var numbers []uint64
	tx.Scan(History, idKey(row.ID), historyKey(row.ID, it.Through+1), func(k, _ []byte) bool {
		numbers = append(numbers, binary.BigEndian.Uint64(k[8:]))
		return true
	})
	for _, n := range numbers {
		if row.Release == nil || row.Release.Number != n {
			tx.Delete(History, historyKey(row.ID, n))
			tx.Delete(Contents, ReleaseKey(row.ID, n))
		}
	}
	if it.Forget && row.Deleted && row.Revision == it.Revision {
		tx.Delete(Items, ItemKey(it.Address))
	}
}

func applyGroupPut(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var g api.Group
	if err := decode("group", cmd.Payload, &g); err != nil {
		return nil, err
	}
	c, err := ReadCounters(tx)
	if err != nil {
		return nil, err
	}
	g.Stamp = stamp(tx, cmd, "")
	b := Encode(g)
	tx.Put(Groups, []byte(g.Name), b)
	putCounters(tx, c)
	tx.Emit(watch.TopicConfig, groupEvent, Event{})
	return b, nil
}

func applyGroupDelete(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	return nil, deleteNamed(tx, Groups, cmd.Payload, "name: the group %q has no settings", groupEvent)
}

func deleteNamed(tx *state.Tx, t state.TableID, name []byte, missing string, event []byte) error {
	if _, ok := tx.Get(t, name); !ok {
		return errs.New(errs.NotFound, missing, name).With(errs.Detail{Field: "name", Value: string(name)})
	}
	c, err := ReadCounters(tx)
	if err != nil {
		return err
	}
	tx.Delete(t, name)
	putCounters(tx, c)
	tx.Emit(watch.TopicConfig, event, Event{})
	return nil
}

func applyScopePut(tx *state.Tx, cmd *command.Command, areas Areas) ([]byte, error) {
	var s api.Scope
	if err := decode("scope", cmd.Payload, &s); err != nil {
		return nil, err
	}
	if !areas.Exists(tx, s.Area) {
		return nil, errs.New(errs.NotFound, "area: there is no area named %q", s.Area).With(errs.Detail{Field: "area", Value: s.Area})
	}
	count := 0
	tx.Scan(Scopes, nil, nil, func(_, _ []byte) bool { count++; return true })
	if _, ok := tx.Get(Scopes, []byte(s.Name)); !ok && count >= api.MaxScopes {
		return nil, errs.New(errs.Exhausted, "there are %d scopes, and that is the limit", count).
			With(errs.Detail{Field: "name", Value: s.Name, Limit: fmt.Sprint(api.MaxScopes)})
	}
	c, err := ReadCounters(tx)
	if err != nil {
		return nil, err
	}
	s.Stamp = stamp(tx, cmd, "")
	b := Encode(s)
	tx.Put(Scopes, []byte(s.Name), b)
	putCounters(tx, c)
	tx.Emit(watch.TopicConfig, scopeEvent, Event{})
	return b, nil
}

func applyScopeDelete(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	return nil, deleteNamed(tx, Scopes, cmd.Payload, "name: there is no scope named %q", scopeEvent)
}

// Report is who listens at one node. It replaces the node's report before it; an
// empty one takes it away.
type Report struct {
	Node      string         `json:"node"`
	Listeners []api.Listener `json:"listeners"`
	Left      int            `json:"left,omitempty"` // for lack of room
	Time      time.Time      `json:"time"`           // set when it is applied
}

func applyReport(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	var r Report
	if err := decode("report", cmd.Payload, &r); err != nil {
		return nil, err
	}
	if len(r.Listeners) == 0 {
		tx.Delete(Listeners, []byte(r.Node))
		return nil, nil
	}
	r.Time = time.Unix(0, tx.Time()).UTC()
	tx.Put(Listeners, []byte(r.Node), Encode(r))
	return nil, nil
}

// Reports calls fn with every node's report.
func Reports(r state.Reader, fn func(Report)) error {
	var err error
	r.Scan(Listeners, nil, nil, func(_, v []byte) bool {
		var x Report
		if err = decode("report row", v, &x); err != nil {
			return false
		}
		fn(x)
		return true
	})
	return err
}

// applyForget takes away the reports of nodes that are gone.
func applyForget(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	if len(cmd.Payload) != 8 {
		return nil, fmt.Errorf("conf: a forget of %d bytes", len(cmd.Payload))
	}
	before := int64(binary.BigEndian.Uint64(cmd.Payload))
	var gone [][]byte
	err := Reports(tx, func(r Report) {
		if r.Time.UnixNano() < before {
			gone = append(gone, []byte(r.Node))
		}
	})
	if err != nil {
		return nil, err
	}
	for _, k := range gone {
		tx.Delete(Listeners, k)
	}
	return nil, nil
}

// EncodeForget is the payload of KindForget.
func EncodeForget(before time.Time) []byte { return idKey(uint64(before.UnixNano())) }
