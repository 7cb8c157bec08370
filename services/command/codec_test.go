package command

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func parse(t testing.TB, entry []byte) []Command {
	t.Helper()
	var out []Command
	require.NoError(t, ParseBatch(entry, func(c *Command) error {
		out = append(out, *c)
		return nil
	}))
	return out
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "n")
		in := make([]Command, n)
		size := 1 + 3 + 10
		for i := range in {
			in[i] = Command{
				Kind:    Kind(rapid.Uint16Min(1).Draw(t, "kind")),
				Time:    rapid.Int64().Draw(t, "time"),
				Actor:   rapid.StringN(0, 20, MaxActorBytes).Draw(t, "actor"),
				Payload: rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
				RequestID: RequestID{
					Session: rapid.Uint64().Draw(t, "session"),
					Seq:     rapid.Uint64().Draw(t, "seq"),
					Acked:   rapid.Uint64().Draw(t, "acked"),
				},
			}
			size += Size(&in[i])
		}
		entry := AppendBatch([]byte("before"), in)[len("before"):]
		if len(entry) > size {
			t.Fatalf("an entry of %d bytes; Size said at most %d", len(entry), size)
		}
		if count, err := Count(entry); err != nil || count != n {
			t.Fatalf("Count is %d, %v", count, err)
		}
		i := 0
		err := ParseBatch(entry, func(c *Command) error {
			w := in[i]
			if c.Kind != w.Kind || c.Time != w.Time || c.Actor != w.Actor || c.RequestID != w.RequestID ||
				!bytes.Equal(c.Payload, w.Payload) {
				t.Fatalf("command %d is %+v; want %+v", i, *c, w)
			}
			i++
			return nil
		})
		if err != nil || i != n {
			t.Fatalf("%d commands, %v", i, err)
		}
	})
}

// TestTimeIsPerCommand: other batch splits give the same commands.
func TestTimeIsPerCommand(t *testing.T) {
	cmds := []Command{{Kind: 1, Time: 5}, {Kind: 2, Time: -7}, {Kind: 3, Time: math.MaxInt64}, {Kind: 4, Time: math.MinInt64}}
	whole := parse(t, AppendBatch(nil, cmds))
	for i := range cmds {
		one := parse(t, AppendBatch(nil, cmds[i:i+1]))
		require.Equal(t, one[0].Time, whole[i].Time)
		require.Equal(t, cmds[i].Time, whole[i].Time)
	}
}

func TestMalformedEntries(t *testing.T) {
	good := AppendBatch(nil, []Command{
		{Kind: 0x2000, Time: 1, Actor: "rest:me", Payload: []byte("abc"), RequestID: RequestID{1, 2, 3}},
		{Kind: 1, Time: 300},
	})
	for i := range good {
		require.ErrorIs(t, ParseBatch(good[:i], func(*Command) error { return nil }), ErrMalformed, "cut to %d", i)
	}
	for name, entry := range map[string][]byte{
		"trailing":          append(bytes.Clone(good), 0),
		"version 0":         append([]byte{0}, good[1:]...),
		"version 2":         append([]byte{2}, good[1:]...),
		"no commands":       {1, 0, 0},
		"too many":          {1, 200, 1, 0, 1, 0, 0, 0},
		"kind 0":            {1, 1, 0, 0, 0, 0, 0},
		"kind too large":    {1, 1, 0, 0x80, 0x80, 4, 0, 0, 0},
		"unknown flag":      {1, 1, 0, 1, 4, 0, 0},
		"empty request id":  {1, 1, 0, 1, 1, 0, 0, 0, 0, 0},
		"empty actor":       {1, 1, 0, 1, 2, 0, 0, 0},
		"long varint":       {1, 0x81, 0, 0, 1, 0, 0, 0},
		"varint overflow":   append([]byte{1}, bytes.Repeat([]byte{0xff}, 12)...),
		"payload too large": {1, 1, 0, 1, 0, 0, 200, 1, 'x'},
		"long actor":        append([]byte{1, 1, 0, 1, 2, 0, 0x80, 2}, append(bytes.Repeat([]byte("a"), 256), 0)...),
	} {
		called := false
		err := ParseBatch(entry, func(*Command) error { called = true; return nil })
		require.ErrorIs(t, err, ErrMalformed, name)
		require.False(t, called, "%s: a malformed entry had an effect", name)
	}
}

func TestParseBatchReturnsTheCallersError(t *testing.T) {
	stop := errors.New("stop")
	n := 0
	entry := AppendBatch(nil, []Command{{Kind: 1}, {Kind: 2}, {Kind: 3}})
	err := ParseBatch(entry, func(*Command) error {
		if n++; n == 2 {
			return stop
		}
		return nil
	})
	require.Equal(t, stop, err)
	require.Equal(t, 2, n)
}

func TestMistakesOfTheCallerPanic(t *testing.T) {
	require.Panics(t, func() { AppendBatch(nil, nil) })
	require.Panics(t, func() { AppendBatch(nil, []Command{{}}) })
	require.Panics(t, func() { AppendBatch(nil, []Command{{Kind: 1, Actor: strings.Repeat("a", 256)}}) })
	require.Panics(t, func() { AppendBatch(nil, make([]Command, maxCount+1)) })
}

func TestRequestIDInContext(t *testing.T) {
	require.Equal(t, RequestID{}, RequestIDFrom(context.Background()))
	id := RequestID{Session: 1, Seq: 2, Acked: 1}
	require.Equal(t, id, RequestIDFrom(NewContext(context.Background(), id)))
}

func FuzzParseBatch(f *testing.F) {
	f.Add(AppendBatch(nil, []Command{{Kind: 1, Time: 5, Payload: []byte("x")}}))
	f.Add(AppendBatch(nil, []Command{
		{Kind: 0x2000, Time: 1, Actor: "wire:a", RequestID: RequestID{1, 2, 3}}, {Kind: 2, Time: -1},
	}))
	f.Add([]byte{1, 1, 0, 1, 4, 0, 0})
	f.Fuzz(func(t *testing.T, entry []byte) {
		var cmds []Command
		if err := ParseBatch(entry, func(c *Command) error {
			cmds = append(cmds, *c)
			return nil
		}); err != nil {
			if !errors.Is(err, ErrMalformed) || len(cmds) != 0 {
				t.Fatalf("%v after %d commands", err, len(cmds))
			}
			return
		}
		// The base time is free, the rest of the encoding is unique.
		again := parse(t, AppendBatch(nil, cmds))
		for i := range cmds {
			if cmds[i].Time != again[i].Time || cmds[i].Kind != again[i].Kind || cmds[i].Actor != again[i].Actor ||
				cmds[i].RequestID != again[i].RequestID || !bytes.Equal(cmds[i].Payload, again[i].Payload) {
				t.Fatalf("command %d is %+v and then %+v", i, cmds[i], again[i])
			}
		}
	})
}

func BenchmarkAppendBatch(b *testing.B) {
	cmds := benchBatch()
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendBatch(dst[:0], cmds)
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkParseBatch(b *testing.B) {
	entry := AppendBatch(nil, benchBatch())
	b.SetBytes(int64(len(entry)))
	b.ReportAllocs()
	for b.Loop() {
		_ = ParseBatch(entry, func(*Command) error { return nil })
	}
}

func benchBatch() []Command {
	cmds := make([]Command, 64)
	for i := range cmds {
		cmds[i] = Command{
			Kind: 0x2000, Time: 1_800_000_000_000_000_000 + int64(i), Actor: "native:bench",
			RequestID: RequestID{Session: 77, Seq: uint64(i), Acked: 1}, Payload: make([]byte, 300),
		}
	}
	return cmds
}
