package command

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"unsafe"
)

// The format of an entry (all integers are unsigned varints in their shortest
// form unless noted; zig-zag where signed):
//
//	byte    version (1)
//	count   number of commands, 1 to maxCount
//	base    zig-zag: the time of the first command, Unix nanoseconds
//	then count times
//	  kind    1 to 65,535
//	  flags   byte: bit 0 has a request id, bit 1 has an actor; others must be 0
//	  delta   zig-zag: time minus base
//	  [session seq acked]
//	  [actor length, bytes]
//	  payload length, bytes
//
// Nothing may follow the last command.
const (
	formatVersion = 1

	flagRequest = 1 << 0
	flagActor   = 1 << 1
	knownFlags  = flagRequest | flagActor

	// MaxActorBytes is the most bytes of an actor.
	MaxActorBytes = 255

	// maxCount bounds what a decoder accepts. It is wider than
	// MaxBatchCommands, which is the proposer's limit and may be raised.
	maxCount = 1 << 16
	// minCommandBytes is the smallest encoded command: kind, flags, delta, payload length.
	minCommandBytes = 4
)

// ErrMalformed is wrapped by every error of ParseBatch that is about the bytes.
var ErrMalformed = errors.New("malformed log entry")

// Size bounds the bytes that cmd takes in an entry, from above and within a few
// bytes. It lets a proposer close a batch before it exceeds MaxBatchBytes.
func Size(cmd *Command) int {
	n := uvarintLen(uint64(cmd.Kind)) + 1 + binary.MaxVarintLen64 +
		uvarintLen(uint64(len(cmd.Payload))) + len(cmd.Payload)
	if cmd.RequestID != (RequestID{}) {
		n += uvarintLen(cmd.Session) + uvarintLen(cmd.Seq) + uvarintLen(cmd.Acked)
	}
	if cmd.Actor != "" {
		n += uvarintLen(uint64(len(cmd.Actor))) + len(cmd.Actor)
	}
	return n
}

// AppendBatch appends the encoding of cmds as one log entry to dst. cmds must
// not be empty, no kind may be 0 and no actor longer than MaxActorBytes: these
// are mistakes of the caller and panic, since such an entry could not be read.
func AppendBatch(dst []byte, cmds []Command) []byte {
	if len(cmds) == 0 || len(cmds) > maxCount {
		panic(fmt.Sprintf("command: a batch of %d commands; want 1 to %d", len(cmds), maxCount))
	}
	base := cmds[0].Time
	dst = append(dst, formatVersion)
	dst = binary.AppendUvarint(dst, uint64(len(cmds)))
	dst = binary.AppendVarint(dst, base)
	for i := range cmds {
		dst = appendCommand(dst, base, &cmds[i])
	}
	return dst
}

func appendCommand(dst []byte, base int64, c *Command) []byte {
	if c.Kind == 0 {
		panic("command: kind 0")
	}
	if len(c.Actor) > MaxActorBytes {
		panic(fmt.Sprintf("command: an actor of %d bytes; want at most %d", len(c.Actor), MaxActorBytes))
	}
	var flags byte
	if c.RequestID != (RequestID{}) {
		flags |= flagRequest
	}
	if c.Actor != "" {
		flags |= flagActor
	}
	dst = binary.AppendUvarint(dst, uint64(c.Kind))
	dst = append(dst, flags)
	// The difference wraps around for times more than 292 years apart; adding
	// it back wraps the same way, so every time survives.
	dst = binary.AppendVarint(dst, c.Time-base)
	if flags&flagRequest != 0 {
		dst = binary.AppendUvarint(dst, c.Session)
		dst = binary.AppendUvarint(dst, c.Seq)
		dst = binary.AppendUvarint(dst, c.Acked)
	}
	if flags&flagActor != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(c.Actor)))
		dst = append(dst, c.Actor...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.Payload)))
	return append(dst, c.Payload...)
}

// Count returns the number of commands in entry by its header alone.
func Count(entry []byte) (int, error) {
	r := reader{buf: entry}
	n := r.header()
	return n, r.err
}

// ParseBatch calls fn for each command of entry, in order. The command is
// reused between calls; its Payload and Actor are slices of entry, which must
// therefore never change. The whole entry is checked before fn is called for
// the first time, so a malformed one has no effect. An error of fn ends the
// walk and is returned as it is.
func ParseBatch(entry []byte, fn func(*Command) error) error {
	if err := walk(entry, nil); err != nil {
		return err
	}
	return walk(entry, fn)
}

func walk(entry []byte, fn func(*Command) error) error {
	r := reader{buf: entry}
	n := r.header()
	base := r.varint("base time")
	if r.err != nil {
		return r.err
	}
	var c Command
	for range n {
		r.command(base, &c)
		if r.err != nil {
			return r.err
		}
		if fn == nil {
			continue
		}
		if err := fn(&c); err != nil {
			return err
		}
	}
	if len(r.buf) != 0 {
		return fmt.Errorf("%w: %d bytes after the last command", ErrMalformed, len(r.buf))
	}
	return nil
}

// reader takes fields off the front of buf; the first failure sticks.
type reader struct {
	buf []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	r.buf = nil
}

func (r *reader) header() int {
	version := r.byte("version")
	if r.err == nil && version != formatVersion {
		r.fail("version %d; this program reads version %d", version, formatVersion)
	}
	n := r.uvarint("count")
	if r.err == nil && (n == 0 || n > maxCount || n > uint64(len(r.buf)/minCommandBytes)) {
		r.fail("count %d with %d bytes left", n, len(r.buf))
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

func (r *reader) command(base int64, c *Command) {
	kind := r.uvarint("kind")
	if r.err == nil && (kind == 0 || kind > math.MaxUint16) {
		r.fail("kind %d", kind)
	}
	flags := r.byte("flags")
	if r.err == nil && flags&^knownFlags != 0 {
		r.fail("unknown flags %#x", flags)
	}
	*c = Command{Kind: Kind(kind), Time: base + r.varint("time")}
	if flags&flagRequest != 0 {
		c.Session = r.uvarint("session")
		c.Seq = r.uvarint("seq")
		c.Acked = r.uvarint("acked")
		if r.err == nil && c.RequestID == (RequestID{}) {
			r.fail("an empty request id")
		}
	}
	if flags&flagActor != 0 {
		actor := r.bytes("actor")
		if r.err == nil && (len(actor) == 0 || len(actor) > MaxActorBytes) {
			r.fail("an actor of %d bytes", len(actor))
		}
		if r.err == nil {
			c.Actor = unsafe.String(&actor[0], len(actor)) // entry never changes
		}
	}
	c.Payload = r.bytes("payload")
}

func (r *reader) byte(field string) byte {
	if len(r.buf) == 0 {
		r.fail("it ends before %s", field)
		return 0
	}
	b := r.buf[0]
	r.buf = r.buf[1:]
	return b
}

func (r *reader) uvarint(field string) uint64 {
	v, n := binary.Uvarint(r.buf)
	// A longer form than needed is refused, so that one batch has one encoding.
	if n <= 0 || n != uvarintLen(v) {
		r.fail("%s is not a varint", field)
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

func (r *reader) varint(field string) int64 {
	u := r.uvarint(field)
	return int64(u>>1) ^ -int64(u&1)
}

func (r *reader) bytes(field string) []byte {
	n := r.uvarint(field)
	if r.err == nil && n > uint64(len(r.buf)) {
		r.fail("%s of %d bytes with %d bytes left", field, n, len(r.buf))
	}
	if r.err != nil {
		return nil
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
