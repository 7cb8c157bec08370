package raftnode

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// A follower that lags refuses each hint. However many commits there are meanwhile, it
// is asked now and then only; and not at all once this node does not lead any more, or
// the follower is no member.
func TestFollowersThatRefuseHintsAreToldSeldom(t *testing.T) {
	for name, end := range map[string]func(leads *atomic.Bool, members *atomic.Pointer[[]raft.Server]){
		"leadership lost": func(leads *atomic.Bool, _ *atomic.Pointer[[]raft.Server]) { leads.Store(false) },
		"removed": func(_ *atomic.Bool, members *atomic.Pointer[[]raft.Server]) {
			members.Store(&[]raft.Server{{ID: "a", Address: "a"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var (
					sent, running atomic.Int64
					leads         atomic.Bool
					members       atomic.Pointer[[]raft.Server]
				)
				leads.Store(true)
				members.Store(&[]raft.Server{{ID: "a", Address: "a"}, {ID: "b", Address: "b"}})
				h := newHints(t.Context(), func(f func()) {
					running.Add(1)
					go func() { defer running.Add(-1); f() }()
				}, "a")
				h.servers = func() []raft.Server { return *members.Load() }
				h.leads = func(uint64) bool { return leads.Load() }
				h.send = func(raft.Server, hint) bool {
					time.Sleep(10 * time.Microsecond) // of the bubble: a round trip
					sent.Add(1)
					return false
				}
				for i := range uint64(50_000) { // five seconds of commits
					h.committed(i+1, 3)
					time.Sleep(100 * time.Microsecond)
				}
				require.Less(t, sent.Load(), int64(20))
				require.Equal(t, int64(1), running.Load())
				end(&leads, &members)
				time.Sleep(2 * maxHintPause)
				synctest.Wait()
				require.Zero(t, running.Load(), "it goes on telling")
				require.Less(t, sent.Load(), int64(22))
			})
		})
	}
}
