package state

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
)

const (
	tblKV   TableID      = 0x80
	kindPut command.Kind = 0x2000
)

func TestSmoke(t *testing.T) {
	for _, mode := range []Mode{Logged, Synced, Volatile} {
		reg := NewRegistry()
		reg.Table(tblKV, "kv")
		reg.Handle(kindPut, "put", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
			tx.Put(tblKV, cmd.Payload[:4], cmd.Payload)
			return []byte("ok"), nil
		})
		path := filepath.Join(t.TempDir(), "state.db")
		m, err := Open(Options{Path: path, Registry: reg, Mode: mode})
		require.NoError(t, err)
		for i := uint64(1); i <= 100; i++ {
			res, err := m.ApplyEntry(i, 1, command.AppendBatch(nil, []command.Command{
				{Kind: kindPut, Time: int64(i), Payload: fmt.Appendf(nil, "%04d", i%37)},
			}))
			require.NoError(t, err)
			require.Equal(t, i, res[0].Revision)
			if i%30 == 0 {
				require.NoError(t, m.Flush(context.Background()))
			}
		}
		v := m.View()
		n := 0
		v.Scan(tblKV, nil, nil, func(k, val []byte) bool { n++; return true })
		require.Equal(t, 37, n)
		n = 0
		v.ScanReverse(tblKV, []byte("0003"), []byte("0010"), func(k, val []byte) bool { n++; return true })
		require.Equal(t, 7, n)
		v.Release()
		h1, err := m.Hash(context.Background(), true)
		require.NoError(t, err)
		s, err := m.Snapshot()
		require.NoError(t, err)
		var buf bytes.Buffer
		size := s.Size()
		w, err := s.WriteTo(&buf)
		require.NoError(t, err)
		require.Equal(t, size, w)
		require.Equal(t, uint64(100), s.Index())
		require.NoError(t, s.Close())
		require.NoError(t, m.Restore(bytes.NewReader(buf.Bytes())))
		h2, err := m.Hash(context.Background(), true)
		require.NoError(t, err)
		require.Equal(t, h1, h2)
		require.NoError(t, m.Close())
		m, err = Open(Options{Path: path, Registry: reg, Mode: mode})
		require.NoError(t, err)
		h3, err := m.Hash(context.Background(), true)
		require.NoError(t, err)
		require.Equal(t, h1, h3)
		require.NoError(t, m.Close())
	}
}
