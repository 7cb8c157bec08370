package command

import (
	"encoding/binary"
	"fmt"
)

// Guard is a condition that travels with a command: the applier of Kind judges it
// when the command's turn comes, and refuses the command when it does not hold. So
// what a door has looked at before is still true when the command takes effect.
type Guard struct {
	Kind      Kind
	Condition []byte
}

// Over gives a command under the guard; without one, the command as it is.
func (g *Guard) Over(c Command) Command {
	if g == nil {
		return c
	}
	b := make([]byte, 0, 2*binary.MaxVarintLen32+len(g.Condition)+len(c.Payload))
	b = binary.AppendUvarint(b, uint64(len(g.Condition)))
	b = append(b, g.Condition...)
	b = binary.AppendUvarint(b, uint64(c.Kind))
	c.Kind, c.Payload = g.Kind, append(b, c.Payload...)
	return c
}

// Guarded takes a payload that Over has made apart. The slices are the payload's.
func Guarded(payload []byte) (condition []byte, kind Kind, inner []byte, err error) {
	n, w := binary.Uvarint(payload)
	if w <= 0 || n > uint64(len(payload)-w) {
		return nil, 0, nil, fmt.Errorf("command: a guard of %d bytes is cut short", len(payload))
	}
	condition, rest := payload[w:w+int(n)], payload[w+int(n):]
	k, w := binary.Uvarint(rest)
	if w <= 0 || k == 0 || k > 1<<16-1 {
		return nil, 0, nil, fmt.Errorf("command: a guard over no kind")
	}
	return condition, Kind(k), rest[w:], nil
}
