package state

import (
	"context"
	"encoding/binary"

	"github.com/zeebo/xxh3"

	"nekoq/services/errs"
)

// Hash gives the chain hash, and with content also the hash over all rows, of
// one consistent generation. The content hash reads every row; ctx ends it.
func (m *Machine) Hash(ctx context.Context, content bool) (Hash, error) {
	m.mu.Lock()
	if m.haltedNow() {
		m.mu.Unlock()
		return Hash{}, m.err
	}
	if content && len(m.sessions.dirty) > 0 {
		m.sessions.materialize(m.active, m.reg.slot(tableSessions))
		m.seq++
		m.behind.Store(true)
	}
	m.show()
	v := m.View()
	m.mu.Unlock()
	if v == nil {
		return Hash{}, errs.New(errs.ShuttingDown, "the state machine is closed")
	}
	defer v.Release()
	mt := v.gen().meta
	h := Hash{Index: mt.index, Revision: mt.revision, Chain: mt.chain}
	if !content {
		return h, nil
	}
	var err error
	h.Content, err = v.contentHash(ctx)
	return h, err
}

// contentHash streams all rows of all tables, in order of table id, through one hash.
func (v *View) contentHash(ctx context.Context) (uint64, error) {
	sum := xxh3.New()
	var head [10]byte
	rows := 0
	var err error
	reg := v.gen().reg
	for id := TableID(1); id <= maxTableID; id++ {
		if reg.slots[id] == 0 {
			continue
		}
		v.Scan(id, nil, nil, func(k, val []byte) bool {
			binary.BigEndian.PutUint16(head[:], uint16(id))
			binary.BigEndian.PutUint32(head[2:], uint32(len(k)))
			binary.BigEndian.PutUint32(head[6:], uint32(len(val)))
			_, _ = sum.Write(head[:])
			_, _ = sum.Write(k)
			_, _ = sum.Write(val)
			if rows++; rows%1024 == 0 {
				err = ctx.Err()
			}
			return err == nil
		})
		if err != nil {
			return 0, errs.From(err)
		}
	}
	binary.BigEndian.PutUint64(head[:], v.Revision())
	_, _ = sum.Write(head[:8])
	return sum.Sum64(), nil
}
