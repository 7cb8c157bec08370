package state

import (
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/command"
	"nekoq/services/errs"
)

// A guard lets a command through when its condition holds, and refuses it otherwise;
// what it cannot guard halts the machine.
func TestGuard(t *testing.T) {
	const guard = command.Kind(0x6001)
	reg := testRegistry()
	reg.HandleGuard(guard, "guard", 1, func(tx *Tx, condition []byte) error {
		if _, ok := tx.Get(tblKV, condition); !ok {
			return errs.New(errs.Conflict, "there is no %q", condition)
		}
		return nil
	})
	f := open(t, Options{Registry: reg})
	under := func(key string, c command.Command) command.Command {
		return (&command.Guard{Kind: guard, Condition: []byte(key)}).Over(c)
	}
	r := f.apply(under("a", put("b", "1")), put("a", "1"), under("a", put("c", "1")), under("a", command.Command{Kind: kindRefuse}))
	require.True(t, errs.Has(r[0].Err, errs.Conflict))
	require.False(t, r[0].Changed)
	require.NoError(t, r[2].Err)
	require.Equal(t, uint64(2), r[2].Revision)
	require.True(t, errs.Has(r[3].Err, errs.InvalidArgument))
	require.Equal(t, map[string]string{"a": "1", "c": "1"}, f.rows())
	_, err := f.ApplyEntry(f.index+1, 1, command.AppendBatch(nil, []command.Command{under("a", under("a", put("d", "1")))}))
	require.ErrorContains(t, err, "cannot")
}
