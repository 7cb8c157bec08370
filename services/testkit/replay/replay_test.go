package replay

import (
	"encoding/binary"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
	"nekoq/services/watch"
)

const (
	table   state.TableID = 0x80
	kindPut command.Kind  = 0x2000
)

func good(r *state.Registry) {
	r.Table(table, "t")
	r.Handle(kindPut, "put", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
		if len(cmd.Payload) == 0 {
			return nil, errs.Invalid("payload", 0, "a key")
		}
		tx.Put(table, cmd.Payload[:1], binary.BigEndian.AppendUint64(nil, uint64(tx.Time())))
		tx.Emit(watch.TopicKV, cmd.Payload[:1], nil)
		return binary.BigEndian.AppendUint64(nil, tx.Next()), nil
	})
}

func commands(n int) []command.Command {
	out := []command.Command{state.OpenSession()}
	for i := range n {
		c := command.Command{Kind: kindPut, Time: int64(i * 1000 % 7001), Payload: []byte{byte(i % 19)}}
		if i%11 == 0 {
			c.Payload = nil
		}
		if i%3 == 0 {
			c.RequestID = command.RequestID{Session: 1, Seq: uint64(i/6 + 1), Acked: uint64(i / 12)}
		}
		out = append(out, c)
	}
	return append(out, state.ExpireSessions(time.Unix(1, 0)))
}

func TestCheckAcceptsPureAppliers(t *testing.T) {
	out := Check(t, good, commands(120))
	if out.Hash.Revision == 0 || len(out.Events) == 0 {
		t.Fatalf("nothing was replayed: %+v", out.Hash)
	}
}

// impure is one way to break determinism, by name.
var impure = map[string]func(r *state.Registry){
	"counter": func(r *state.Registry) {
		r.Table(table, "t")
		calls := 0
		r.Handle(kindPut, "put", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
			calls++ // starts anew with each process, so a restart shows it
			tx.Put(table, []byte{byte(calls)}, []byte{1})
			return nil, nil
		})
	},
	"zone": func(r *state.Registry) {
		r.Table(table, "t")
		r.Handle(kindPut, "put", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
			tx.Put(table, []byte("hour"), []byte{byte(time.Unix(0, tx.Time()).Hour())})
			return nil, nil
		})
	},
}

// TestCheckCatchesImpureAppliers runs Check in a child process, since it fails
// the test that calls it.
func TestCheckCatchesImpureAppliers(t *testing.T) {
	for name := range impure {
		cmd := exec.Command(os.Args[0], "-test.run=^TestImpureChild$")
		cmd.Env = append(os.Environ(), "NEKOQ_REPLAY_IMPURE="+name)
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%s: Check accepted it", name)
		}
		if !strings.Contains(string(out), "replay: ") {
			t.Errorf("%s: the failure does not explain itself: %s", name, out)
		}
	}
}

func TestImpureChild(t *testing.T) {
	if register := impure[os.Getenv("NEKOQ_REPLAY_IMPURE")]; register != nil {
		Check(t, register, commands(60))
	}
}
