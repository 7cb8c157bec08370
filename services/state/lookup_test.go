package state

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
)

// A Lookup finds what Get finds: keys in order, in none, again and again, there, deleted
// and never there; from the overlay, from the file through the map and past it, and
// beside writes of its own command.
func TestLookupIsGet(t *testing.T) {
	const kindLook command.Kind = 0x2100
	rnd := rand.New(rand.NewPCG(1, 2))
	name := func(i int) string { return fmt.Sprintf("key/%06d", i) }
	const keys = 6000 // many leaves
	reg := testRegistry()
	reg.Handle(kindLook, "look", 1, func(tx *Tx, cmd *command.Command) ([]byte, error) {
		for _, most := range []int{1, 3, 40, 900} {
			for _, sorted := range []bool{true, false} {
				var ask []int
				for at := -1; at < keys; at += 1 + rnd.IntN(most) {
					ask = append(ask, at)
				}
				ask = append(ask, keys, keys+1, keys, -1, 7, 7)
				if !sorted {
					rnd.Shuffle(len(ask), func(i, j int) { ask[i], ask[j] = ask[j], ask[i] })
				}
				l := tx.Lookup(tblKV)
				var got, want [][]byte
				for n, i := range ask {
					if n%100 == 50 {
						tx.Put(tblKV, []byte(name(i)), []byte("new"))
					}
					v, ok := l.Get([]byte(name(i)))
					w, there := tx.Get(tblKV, []byte(name(i)))
					if ok != there {
						return nil, fmt.Errorf("key %d: found %v, want %v", i, ok, there)
					}
					got, want = append(got, v), append(want, w)
					if n%100 == 60 {
						tx.Delete(tblKV, []byte(name(i)))
					}
				}
				l.Close()
				for i := range got { // values outlast the look at later ones
					if string(got[i]) != string(want[i]) {
						return nil, fmt.Errorf("key %d: %q, want %q", ask[i], got[i], want[i])
					}
				}
			}
		}
		return nil, nil
	})
	for _, sparing := range []bool{false, true} {
		f := open(t, Options{Registry: reg, Config: lazy()})
		look := func() {
			t.Helper()
			f.base.h.sparing.Store(sparing)
			r := f.apply(command.Command{Kind: kindLook})
			require.NoError(t, r[0].Err)
		}
		look() // an empty table
		for from := 0; from < keys; from += 1000 {
			var batch []command.Command
			for i := from; i < from+1000; i++ {
				if i%5 != 0 {
					batch = append(batch, put(name(i), fmt.Sprintf("value %d", i)))
				}
			}
			f.apply(batch...)
		}
		look()
		f.flush()
		look()
		look()
		f.flush()
		f.apply(del(name(8)), del(name(9)), put(name(10), "ten"))
		look()
	}
}
