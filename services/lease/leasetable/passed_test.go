package leasetable

import (
	"path/filepath"
	"testing"

	"nekoq/services/command"
	"nekoq/services/state"
)

// counted counts the rows that scans give.
type counted struct {
	state.Reader
	rows *int
}

func (c counted) Scan(t state.TableID, start, end []byte, fn func(k, v []byte) bool) {
	c.Reader.Scan(t, start, end, func(k, v []byte) bool {
		*c.rows++
		return fn(k, v)
	})
}

// Leases that end are read without many of those between them, whoever chose the ids:
// also ids of users in the half from which the state chooses.
func TestReadsOfEndsPassOverFewOthers(t *testing.T) {
	const kindRead command.Kind = 0x3013
	const stride, ends = 500, 40
	for _, first := range []uint64{1, autoBit} {
		rows, reg := 0, state.NewRegistry()
		Register(reg)
		reg.Handle(kindRead, "read", 1, func(tx *state.Tx, _ *command.Command) ([]byte, error) {
			var due []deadline
			for i := range uint64(stride * ends) {
				l := Grant{ID: first + i, TTL: MinTTL}.Apply(tx)
				if i%stride < 2 {
					due = append(due, deadline{l.Deadline, l.ID})
				}
			}
			_, err := readAll(counted{tx, &rows}, due)
			return nil, err
		})
		m, err := state.Open(state.Options{Path: filepath.Join(t.TempDir(), "s.db"), Registry: reg, Mode: state.Volatile})
		if err != nil {
			t.Fatal(err)
		}
		res, err := m.ApplyEntry(1, 1, command.AppendBatch(nil, []command.Command{{Kind: kindRead, Time: 1}}))
		if err != nil || res[0].Err != nil {
			t.Fatal(err, res)
		}
		if most := 2 * ends * (maxBetween + 2); rows > most {
			t.Errorf("ids from %d: %d rows were read for %d leases, want %d at most", first, rows, 2*ends, most)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}
