package history

import (
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

func verdict(r *Recorder) bool { return porcupine.CheckOperations(model, r.ops) }

func TestOldValueIsFound(t *testing.T) {
	r := New()
	r.Put(0, "k", "a").OK()
	r.Put(0, "k", "b").OK()
	r.Get(1, "k").Read("b")
	require.True(t, verdict(r))
	r.Get(1, "k").Read("a")
	require.False(t, verdict(r))
}

func TestUnknownMayTakeEffectLate(t *testing.T) {
	r := New()
	r.Put(0, "k", "a").Unknown()
	r.Get(1, "k").Read("")
	r.Get(1, "k").Read("a")
	require.True(t, verdict(r))
	r.Get(1, "k").Read("")
	require.False(t, verdict(r))
}

func TestCompareAndSet(t *testing.T) {
	r := New()
	r.CAS(0, "k", "", "a").OK()
	r.CAS(0, "k", "x", "b").Mismatch()
	r.Get(1, "k").Read("a")
	require.True(t, verdict(r))
	r.CAS(0, "k", "a", "c").Mismatch()
	require.False(t, verdict(r))
}
