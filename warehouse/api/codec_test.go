package api

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"nekoq/services/errs"
)

type message interface {
	Append(b []byte) []byte
	Decode(b []byte) error
}

func kv(i byte) KV {
	return KV{
		Key: []byte{'k', i}, Value: []byte{i, 0, 0xff}, CreateRevision: 3, ModRevision: uint64(i) + 3, Version: 2,
		Lease: 1 << 62, StoreRevision: 1, Created: 1_700_000_000_000_000_000, Modified: 1_700_000_000_000_000_001, Actor: "http:me",
	}
}

var header = Header{Revision: 7, StoreRevision: 1 << 50, Stale: true, LagEntries: 3, LagAge: time.Second, LagKnown: true}

// messages is one of each, all fields set.
var messages = []message{
	&PutRequest{Key: []byte("k"), Value: []byte("v"), If: If(7), TTL: time.Minute, Lease: 9},
	&DeleteRequest{Key: []byte("k"), If: If(0)},
	&WriteResult{Revision: 1, CreateRevision: 2, Version: 3, Lease: 4, PrevRevision: 5, StoreRevision: 1 << 63},
	&GetRequest{Key: []byte("k"), Revision: 300, Stale: true},
	&GetResult{Header: header, Found: true, KV: kv(1)},
	&GetResult{Header: Header{Revision: 2}},
	&ListRequest{Start: []byte("a"), End: []byte("b"), Limit: -4, PageToken: "token", Revision: 5, Stale: true, KeysOnly: true, Count: true},
	&ListResult{Header: header, Items: []KV{kv(1), kv(2)}, NextPageToken: "next", Counted: true, Count: 99},
	&HistoryRequest{Key: []byte("k"), Before: 4, Limit: 3, Stale: true},
	&HistoryResult{Header: header, CompactRevision: 2, Items: []KV{{Key: []byte("k"), ModRevision: 5, CreateRevision: 5, Deleted: true}}, More: true},
	&WatchRequest{Start: []byte("a"), End: []byte("b"), Exact: true, After: 7, Now: true, Prev: true},
	&WatchBatch{Revision: 9, Events: []Event{{Kind: EventPut, Sub: 3, KV: kv(4), PrevRevision: 2, Prev: new(KV)}, {Kind: EventDelete, KV: kv(5)}}},
	&Status{Header: header, CompactRevision: 1, Keys: 2, Bytes: 3},
	&CompactRequest{Revision: 12},
	&StatusRequest{Stale: true},
}

func fresh(m message) message {
	return reflect.New(reflect.TypeOf(m).Elem()).Interface().(message)
}

func TestRoundTrip(t *testing.T) {
	for _, m := range messages {
		b := m.Append([]byte("prefix"))[6:]
		got := fresh(m)
		if err := got.Decode(b); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%T: %+v became %+v: %v", m, m, got, err)
		}
		// A later version may append fields.
		if err := fresh(m).Decode(append(bytes.Clone(b), 1, 2, 3)); err != nil {
			t.Errorf("%T with more fields: %v", m, err)
		}
		for n := range b {
			if err := fresh(m).Decode(b[:n]); !errs.Has(err, errs.ProtocolViolation) {
				t.Errorf("%T cut to %d of %d bytes: %v", m, n, len(b), err)
			}
		}
	}
}

// Any bytes decode to an error, or to a message that encodes and decodes to itself.
func FuzzDecode(f *testing.F) {
	for i, m := range messages {
		f.Add(uint8(i), m.Append(nil))
	}
	f.Add(uint8(7), []byte{0, 0, 1, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		m := fresh(messages[int(which)%len(messages)])
		if m.Decode(b) != nil {
			return
		}
		again := fresh(m)
		first := m.Append(nil)
		if err := again.Decode(first); err != nil {
			t.Fatalf("%T %+v: %v", m, m, err)
		}
		if second := again.Append(nil); !bytes.Equal(first, second) {
			t.Fatalf("%T %+v encodes to %x, then to %x", m, m, first, second)
		}
	})
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"": "", "a": "b", "a\xff": "b", "\xff\xff": "", "ab": "ac"} {
		if got := PrefixEnd([]byte(prefix)); string(got) != want {
			t.Errorf("end of %q is %q, want %q", prefix, got, want)
		}
	}
}

func BenchmarkGetResult(b *testing.B) {
	m := GetResult{Header: Header{Revision: 7, StoreRevision: 9}, Found: true, KV: kv(1)}
	m.KV.Value = make([]byte, 256)
	buf := m.Append(nil)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = m.Append(buf[:0])
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var got GetResult
			if err := got.Decode(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
