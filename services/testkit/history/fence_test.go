package history

import (
	"strconv"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

func fencesOK(f *Fences) bool {
	return overlap(f.tenures) == nil && porcupine.CheckOperations(fenceModel, f.ops)
}

func TestFences(t *testing.T) {
	for _, c := range []struct {
		name string
		ok   bool
		run  func(f *Fences)
	}{
		{"one after the other", true, func(f *Fences) {
			a := f.Acquire(0, "l").Held(5, time.Hour)
			f.Write(0, "l", 5).OK()
			a.Leave()
			f.Release(0, "l", 5).OK()
			f.Look(2, "l").Saw(0)
			b := f.Acquire(1, "l").Held(8, time.Hour)
			f.Write(0, "l", 5).Stale()
			f.Write(1, "l", 8).OK()
			f.Look(2, "l").Saw(8)
			b.Leave()
		}},
		{"a deposed leader writes", false, func(f *Fences) {
			f.Acquire(0, "l").Held(5, 0)
			f.Acquire(1, "l").Held(8, 0)
			f.Write(0, "l", 5).OK()
		}},
		{"deposed by one who was only looked at", false, func(f *Fences) {
			f.Acquire(0, "l").Held(5, 0)
			f.Look(1, "l").Saw(8)
			f.Write(0, "l", 5).OK()
		}},
		{"a token that does not grow", false, func(f *Fences) {
			f.Acquire(0, "l").Held(8, 0)
			f.Acquire(1, "l").Held(5, 0)
		}},
		{"a token twice", false, func(f *Fences) {
			f.Acquire(0, "l").Held(8, 0)
			f.Release(0, "l", 8).OK()
			f.Acquire(1, "l").Held(8, 0)
		}},
		{"written after it was lost", false, func(f *Fences) {
			f.Acquire(0, "l").Held(5, 0)
			f.Write(0, "l", 5).Stale()
			f.Write(0, "l", 5).OK()
		}},
		{"written after it was given back", false, func(f *Fences) {
			f.Acquire(0, "l").Held(5, 0)
			f.Release(0, "l", 5).OK()
			f.Write(0, "l", 5).OK()
		}},
		{"written while nobody held", false, func(f *Fences) {
			f.Acquire(0, "l").Held(5, 0)
			f.Look(1, "l").Saw(0)
			f.Write(0, "l", 5).OK()
		}},
		{"seen to hold after the next one", false, func(f *Fences) {
			f.Acquire(0, "l").Held(5, 0)
			f.Acquire(1, "l").Held(8, 0)
			f.Look(2, "l").Saw(5)
		}},
		{"while the next one is asked for", true, func(f *Fences) {
			f.Acquire(0, "l").Held(5, 0)
			b, w := f.Acquire(1, "l"), f.Write(0, "l", 5)
			b.Held(8, 0)
			w.OK()
		}},
		{"two holders at once", false, func(f *Fences) {
			f.Acquire(0, "l").Held(5, time.Hour)
			f.Acquire(1, "l").Held(8, time.Hour)
		}},
		{"two holders of two locks", true, func(f *Fences) {
			f.Acquire(0, "l").Held(5, time.Hour)
			f.Acquire(1, "m").Held(8, time.Hour)
		}},
		{"two holders, the first one kept alive", false, func(f *Fences) {
			a := f.Acquire(0, "l").Held(5, 0)
			a.Keep(time.Hour)()
			f.Acquire(1, "l").Held(8, 0).Keep(time.Hour)()
		}},
		{"the first one's keep-alive had no answer", true, func(f *Fences) {
			a := f.Acquire(0, "l").Held(5, 0)
			_ = a.Keep(time.Hour)
			f.Acquire(1, "l").Held(8, 0).Keep(time.Hour)()
		}},
		{"one in line tries to write", true, func(f *Fences) {
			f.Acquire(0, "l").Held(5, 0)
			f.Write(1, "l", 8).Stale()
			f.Write(0, "l", 5).OK()
			f.Acquire(1, "l").Held(8, 0)
		}},
		{"one in line writes", false, func(f *Fences) {
			f.Acquire(0, "l").Held(5, 0)
			f.Write(1, "l", 8).OK()
			f.Write(0, "l", 5).OK()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewFences()
			c.run(f)
			require.Equal(t, c.ok, fencesOK(f))
		})
	}
}

func TestTokensGrow(t *testing.T) {
	token := func(s string) uint64 { n, _ := strconv.ParseUint(s, 10, 64); return n }
	put := func(rev uint64, v string) Event { return Event{Key: "g", Value: v, Revision: rev} }
	require.NoError(t, TokensGrow([]Event{put(5, "2"), put(6, "2"), {Key: "g", Delete: true, Revision: 7}, put(9, "8")}, token))
	require.ErrorContains(t, TokensGrow([]Event{put(5, "2"), put(9, "8"), put(10, "2")}, token), "token 2 at revision 10 comes after token 8 at revision 9")
}
