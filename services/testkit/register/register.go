// Package register is a small service for tests of replicas: named registers with
// put, append and compare-and-set, and a counter of how often each was written.
//
// Register adds its table and commands to a registry. Only tests import it.
package register

import (
	"bytes"
	"encoding/binary"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

// Table holds the registers.
const Table state.TableID = 0x0ff0

// The commands. Keys have at most 255 bytes.
const (
	KindPut    command.Kind = 0x7ff0
	KindAppend command.Kind = 0x7ff1
	KindCAS    command.Kind = 0x7ff2
	KindFail   command.Kind = 0x7ff3 // is always refused
	KindHalt   command.Kind = 0x7ff4 // stops the state machine
)

// Register adds the service to reg.
func Register(reg *state.Registry) {
	reg.Table(Table, "testkit_register")
	reg.Handle(KindPut, "testkit.put", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
		key, value := split(cmd.Payload)
		old, _ := tx.Get(Table, key)
		out := bytes.Clone(old)
		tx.Put(Table, key, value)
		return out, nil
	})
	reg.Handle(KindAppend, "testkit.append", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
		key, value := split(cmd.Payload)
		old, _ := tx.Get(Table, key)
		joined := append(bytes.Clone(old), value...)
		tx.Put(Table, key, joined)
		return binary.AppendUvarint(nil, uint64(len(joined))), nil
	})
	reg.Handle(KindCAS, "testkit.cas", 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
		key, rest := split(cmd.Payload)
		want, value := split(rest)
		if old, _ := tx.Get(Table, key); !bytes.Equal(old, want) {
			return nil, errs.New(errs.RevisionMismatch, "the register holds another value").
				With(errs.Detail{Field: "want", Value: string(want)})
		}
		tx.Put(Table, key, value)
		return nil, nil
	})
	reg.Handle(KindFail, "testkit.fail", 1, func(*state.Tx, *command.Command) ([]byte, error) {
		return nil, errs.Invalid("value", "bad", "good")
	})
	reg.Handle(KindHalt, "testkit.halt", 1, func(*state.Tx, *command.Command) ([]byte, error) {
		return nil, bytes.ErrTooLarge // any error that is no *errs.Error
	})
}

func split(b []byte) (head, rest []byte) {
	n := int(b[0])
	return b[1 : 1+n], b[1+n:]
}

func join(head string, rest []byte) []byte {
	return append(append([]byte{byte(len(head))}, head...), rest...)
}

// Put sets key to value. The result is the value before.
func Put(key, value string) command.Command {
	return command.Command{Kind: KindPut, Payload: join(key, []byte(value))}
}

// Append adds value to the end of key's.
func Append(key, value string) command.Command {
	return command.Command{Kind: KindAppend, Payload: join(key, []byte(value))}
}

// CAS sets key to value if it holds want; otherwise revision_mismatch.
func CAS(key, want, value string) command.Command {
	return command.Command{Kind: KindCAS, Payload: join(key, join(want, []byte(value)))}
}

// Fail is refused with invalid_argument.
func Fail() command.Command { return command.Command{Kind: KindFail} }

// Halt stops the state machine that applies it.
func Halt() command.Command { return command.Command{Kind: KindHalt} }

// Get reads key from a view, "" for none.
func Get(r state.Reader, key string) string {
	v, _ := r.Get(Table, []byte(key))
	return string(v)
}
