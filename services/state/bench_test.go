package state

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
)

// benchEntry is a batch of 256-byte puts under scattered keys.
func benchEntry(dst []byte, from, n int) []byte {
	cmds := make([]command.Command, n)
	for i := range cmds {
		p := make([]byte, 1+16+256)
		p[0] = 16
		binary.BigEndian.PutUint64(p[1:], uint64(from+i)*0x9e3779b97f4a7c15)
		binary.BigEndian.PutUint64(p[9:], uint64(from+i))
		cmds[i] = command.Command{Kind: kindPut, Time: int64(from + i), Payload: p}
	}
	return command.AppendBatch(dst, cmds)
}

// benchMachine is a registry without the test's index, which is not cheap.
func benchMachine(b *testing.B, mode Mode, rows int) *fixture {
	reg := NewRegistry()
	reg.Table(tblKV, "kv")
	reg.Handle(kindPut, "put", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		n := int(cmd.Payload[0])
		tx.Put(tblKV, cmd.Payload[1:1+n], cmd.Payload[1+n:])
		return nil, nil
	})
	f := open(b, Options{Mode: mode, Registry: reg, Config: DefaultConfig()})
	for at := 0; at < rows; at += 1000 {
		_, err := f.ApplyEntry(uint64(at/1000+1), 1, benchEntry(nil, at, 1000))
		require.NoError(b, err)
	}
	f.index, _ = f.Applied()
	f.flush()
	return f
}

func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 64, 1000} {
		b.Run(fmt.Sprintf("logged/batch=%d", n), func(b *testing.B) {
			f := benchMachine(b, Logged, 0)
			b.ReportAllocs()
			for done := 0; b.Loop(); done += n {
				b.StopTimer()
				entry := benchEntry(nil, done, n)
				b.StartTimer()
				f.index++
				if _, err := f.ApplyEntry(f.index, 1, entry); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/put")
		})
	}
	b.Run("synced/batch=64", func(b *testing.B) {
		f := benchMachine(b, Synced, 0)
		for done := 0; b.Loop(); done += 64 {
			f.index++
			if _, err := f.ApplyEntry(f.index, 1, benchEntry(nil, done, 64)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkViewGet(b *testing.B) {
	f := benchMachine(b, Volatile, 100_000)
	var key [16]byte
	b.Run("view", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				f.View().Release()
			}
		})
	})
	b.Run("view and get", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			n := uint64(i*7919) % 100_000
			binary.BigEndian.PutUint64(key[:], n*0x9e3779b97f4a7c15)
			binary.BigEndian.PutUint64(key[8:], n)
			v := f.View()
			if _, ok := v.Get(tblKV, key[:]); !ok {
				b.Fatal("missing")
			}
			v.Release()
		}
	})
}

func BenchmarkScan(b *testing.B) {
	f := benchMachine(b, Volatile, 100_000)
	f.index++
	_, err := f.ApplyEntry(f.index, 1, benchEntry(nil, 100_000, 500)) // something in the overlay
	require.NoError(b, err)
	rows := 0
	for b.Loop() {
		v := f.View()
		v.Scan(tblKV, nil, nil, func(k, val []byte) bool {
			rows++
			return true
		})
		v.Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/row")
}

// BenchmarkMillion loads 1 M rows of 256 bytes, closes, and measures opening.
func BenchmarkMillion(b *testing.B) {
	f := benchMachine(b, Logged, 1_000_000)
	require.NoError(b, f.Machine.Close())
	runtime.GC()
	for b.Loop() {
		m, err := Open(f.opts)
		require.NoError(b, err)
		b.StopTimer()
		f.Machine = m
		require.NoError(b, m.Flush(context.Background()))
		require.NoError(b, m.Close())
		b.StartTimer()
	}
}
