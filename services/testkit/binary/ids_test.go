package binary_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/client"
	"nekoq/numgen/api"
	"nekoq/services/errs"
)

// ids is what was given out, of one generator.
type ids struct {
	name    string
	mu      sync.Mutex
	seen    map[string]string // id to the node that gave it
	unknown int               // numbers of requests whose outcome is not known
}

// Ids are taken from all nodes while leaders and others are killed: none comes
// twice, each node's increase, and a sequence has no more gaps than requests that
// ended without an answer.
func TestSoakIDsUnderFaults(t *testing.T) {
	const batch = 7
	c := startCluster(t, 3)
	var all []*ids
	for _, kind := range []string{"id128", "snowflake", "uuidv7", "ulid", "segment", "sequence"} {
		_, err := c.c.Numgen().Create(t.Context(), api.CreateRequest{Name: "x-" + kind, Kind: kind})
		require.NoError(t, err)
		all = append(all, &ids{name: "x-" + kind, seen: map[string]string{}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, n := range c.nodes {
		cl := c.client(n.Native)
		for _, x := range all {
			wg.Go(func() { x.take(ctx, t, cl, n.ID, batch) })
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	for end := time.Now().Add(soak(t, 8*time.Second)); time.Now().Before(end); {
		wait(t, random(r, time.Second))
		c.oneFault(r)
		c.allReady()
	}
	wait(t, time.Second)
	cancel()
	wg.Wait()
	for _, x := range all {
		require.NotEmpty(t, x.seen, x.name)
		t.Logf("%s: %d different ids", x.name, len(x.seen))
	}
	sequence := all[len(all)-1]
	highest := uint64(0)
	for id := range sequence.seen {
		highest = max(highest, binary.BigEndian.Uint64([]byte(id)))
	}
	require.LessOrEqual(t, highest, uint64(len(sequence.seen)+sequence.unknown), "the sequence has gaps that no lost answer explains")
}

// take takes ids from one node until ctx ends.
func (x *ids) take(ctx context.Context, t *testing.T, cl *client.Client, node string, n int) {
	var last []byte
	for ctx.Err() == nil {
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		kind, packed, err := cl.Numgen().Packed(short, x.name, n)
		cancel()
		x.mu.Lock()
		if err != nil && !errs.Has(err, errs.NoLeader) && !errs.Has(err, errs.Unavailable) {
			x.unknown += n
		}
		for err == nil {
			id, rest, ok := kind.Next(packed)
			if !ok {
				break
			}
			if bytes.Compare(id, last) <= 0 {
				t.Errorf("%s on %s: %x came after %x", x.name, node, id, last)
			}
			if first, dup := x.seen[string(id)]; dup {
				t.Errorf("%s: %x came from %s and before from %s", x.name, id, node, first)
			}
			x.seen[string(id)] = node
			last, packed = bytes.Clone(id), rest
		}
		x.mu.Unlock()
		if err == nil {
			pause(ctx, 2*time.Millisecond)
		}
	}
}

// pause keeps the number of ids such that all of them can be remembered.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
