package raftnode

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"nekoq/services/errs"
	"nekoq/services/replica/internal/group"
)

// The answer to a forwarded batch can be larger than a frame: transactions answer
// with what they read. The leader then sends its length and a number under which it
// keeps it, and the asking node fetches it part by part from that same node:
//
//	byte 3: number, length (uvarint)
//
// A call for a part has the number and the offset (uvarint); the answer is the part.
const outcomeParts byte = 3

const (
	// answerPart is what fits into a frame with room to spare (at least 16 MiB between
	// nodes); answers up to it travel at once.
	answerPart = 4 << 20
	// maxAnswer bounds one answer: 1,024 results of 32 MiB would be more than the
	// leader has memory for, so it refuses to keep them.
	maxAnswer = 512 << 20
	// keptAnswers bounds the memory of all answers that wait to be fetched. Beyond, the
	// oldest are dropped, and their writes end as outcome_unknown.
	keptAnswers = 512 << 20
	// fetchTime is how long an answer waits to be fetched after its last part.
	fetchTime = 10 * time.Second
)

// answers are those that are being fetched from this node.
type answers struct {
	mu    sync.Mutex
	kept  map[uint64]*keptAnswer
	order []uint64 // oldest first
	bytes int
}

type keptAnswer struct {
	data []byte
	gone *time.Timer
}

// keep gives what is sent in place of data.
func (a *answers) keep(data, dst []byte) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept == nil {
		a.kept = map[uint64]*keptAnswer{}
	}
	for len(a.order) > 0 && a.bytes+len(data) > keptAnswers {
		a.dropLocked(a.order[0])
	}
	id := rand.Uint64() // not known to a node that asks after a restart
	a.kept[id] = &keptAnswer{data: data, gone: time.AfterFunc(fetchTime, func() { a.drop(id) })}
	a.order = append(a.order, id)
	a.bytes += len(data)
	dst = binary.AppendUvarint(append(dst, outcomeParts), id)
	return binary.AppendUvarint(dst, uint64(len(data)))
}

// part appends what follows offset, and forgets the answer with its last part.
func (a *answers) part(id, offset uint64, dst []byte) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kept[id]
	if k == nil || offset >= uint64(len(k.data)) {
		return nil, errs.New(errs.NotFound, "the rest of the answer is gone")
	}
	rest := k.data[offset:]
	if len(rest) <= answerPart {
		a.dropLocked(id)
	} else {
		rest = rest[:answerPart]
		k.gone.Reset(fetchTime)
	}
	return append(dst, rest...), nil
}

func (a *answers) drop(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropLocked(id)
}

func (a *answers) dropLocked(id uint64) {
	k := a.kept[id]
	if k == nil {
		return
	}
	k.gone.Stop()
	delete(a.kept, id)
	a.bytes -= len(k.data)
	for i, o := range a.order {
		if o == id {
			a.order = append(a.order[:i], a.order[i+1:]...)
			break
		}
	}
}

// serveForwardRest is MethodForwardRest.
func (n *Node) serveForwardRest(_ context.Context, req, dst []byte) ([]byte, error) {
	r := outcomeReader{buf: req}
	id, offset := r.uvarint(), r.uvarint()
	if r.failed || len(r.buf) > 0 {
		return nil, errs.New(errs.ProtocolViolation, "a call for the rest of an answer cannot be read")
	}
	return n.answers.part(id, offset, dst)
}

// wholeAnswer gives the answer of node to a batch, fetched in parts where it is too
// large for one frame. The batch was carried out, so every error is outcome_unknown;
// a new leader is no reason to stop, since the answer is with the old one.
func (n *Node) wholeAnswer(node string, answer []byte) ([]byte, error) {
	if len(answer) == 0 || answer[0] != outcomeParts {
		return answer, nil
	}
	r := outcomeReader{buf: answer[1:]}
	id, size := r.uvarint(), r.uvarint()
	if r.failed || len(r.buf) > 0 || size > maxAnswer {
		return nil, group.Unknown(fmt.Errorf("the announcement of an answer of %d bytes cannot be read", size))
	}
	ctx, cancel := context.WithTimeout(n.life, n.cfg.LeaderPatience)
	defer cancel()
	whole := make([]byte, 0, size)
	for uint64(len(whole)) < size {
		req := binary.AppendUvarint(binary.AppendUvarint(nil, id), uint64(len(whole)))
		part, err := n.peers.Call(ctx, node, MethodForwardRest, req)
		if err != nil {
			return nil, group.Unknown(err)
		}
		if len(part) == 0 || uint64(len(whole)+len(part)) > size {
			return nil, group.Unknown(fmt.Errorf("a part of %d bytes of an answer of %d", len(part), size))
		}
		whole = append(whole, part...)
	}
	return whole, nil
}
