package raftnode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/replica/internal/group"
	"nekoq/services/wire"
)

// A forwarded frame is a batch of commands as in a log entry (their times are
// ignored). The answer has one outcome a command, in order:
//
//	byte 0: index, revision (uvarint), changed (byte), length, data
//	byte 1: an error: code, message, number of details, each of four strings
//	byte 2: not taken; nothing was sent
//
// An answer that is too large for a frame is announced in its place; see answers.
//
// Strings and data have a uvarint length.
const (
	outcomeOK byte = iota
	outcomeError
	outcomeNotTaken
)

// forwardSlots is how many frames of commands are on their way to the leader at
// the same time; while all are, the next ones fill up.
const forwardSlots = 4

// runForward sends what waits to the leader, many commands in one call.
func (n *Node) runForward() {
	var (
		taker group.Taker
		batch []*group.Proposal
		frame []byte
		ok    bool
	)
	for {
		batch, frame, ok = taker.Take(n.forward, batch, func() int64 { return 0 })
		if !ok {
			return
		}
		n.m.forwarded.Add(float64(len(batch)))
		leader, answer, err := n.callLeader(MethodForward, frame)
		switch {
		case err == nil:
			if answer, err = n.wholeAnswer(leader, answer); err == nil {
				err = finishAll(batch, answer)
			}
		case len(batch) == 1 && len(frame) > command.MaxBatchBytes && errs.Has(err, errs.TooLarge):
			// A command too large for a call; answers are small.
		default:
			err = callError(err)
		}
		if err != nil {
			for _, p := range batch {
				p.Finish(replica.Result{}, err)
			}
		}
	}
}

// callLeader calls the leader as this node knows it. The call ends when another
// node becomes leader: the old one may be frozen.
func (n *Node) callLeader(m wire.Method, req []byte) (id string, answer []byte, err error) {
	id, epoch := n.leader.epoch()
	if id == "" || id == n.id {
		return "", nil, errNotTaken
	}
	ctx, cancel := context.WithTimeout(epoch, n.cfg.LeaderPatience)
	defer cancel()
	answer, err = n.peers.Call(ctx, id, m, req)
	return id, answer, err
}

// callError sorts the failures of a call into those that sent nothing and those
// that may have.
func callError(err error) error {
	switch errs.CodeOf(err) {
	case errs.Unavailable, errs.NoLeader, errs.ShuttingDown, errs.TooManyRequests, errs.Unimplemented, errs.NotFound:
		return errNotTaken
	}
	if errors.Is(err, errNotTaken) {
		return errNotTaken
	}
	return group.Unknown(err)
}

// forwardEssential sends a command alone, past the leader's reserve of disk space.
func (n *Node) forwardEssential(ctx context.Context, cmd *command.Command) (replica.Result, error) {
	id, epoch := n.leader.epoch()
	if id == "" || id == n.id {
		return replica.Result{}, errNotTaken
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.LeaderPatience)
	defer cancel()
	defer context.AfterFunc(epoch, cancel)() // as in callLeader
	answer, err := n.peers.Call(ctx, id, MethodForwardEssential, command.AppendBatch(nil, []command.Command{*cmd}))
	if err != nil {
		return replica.Result{}, callError(err)
	}
	if answer, err = n.wholeAnswer(id, answer); err != nil {
		return replica.Result{}, err
	}
	r := outcomeReader{buf: answer}
	res, err := r.next()
	if r.failed || len(r.buf) > 0 {
		return replica.Result{}, group.Unknown(errors.New("the leader's answer to an essential command cannot be read"))
	}
	return res, err
}

// serveForward is MethodForward on the leader. It never forwards further.
func (n *Node) serveForward(ctx context.Context, req, dst []byte) ([]byte, error) {
	return n.serveCommands(ctx, req, dst, n.writable)
}

// serveForwardEssential is MethodForwardEssential on the leader.
func (n *Node) serveForwardEssential(ctx context.Context, req, dst []byte) ([]byte, error) {
	return n.serveCommands(ctx, req, dst, n.machine.Storage)
}

// serveCommands carries a forwarded batch out; full says why nothing may be written.
func (n *Node) serveCommands(ctx context.Context, req, dst []byte, full func() error) ([]byte, error) {
	if err := n.usable(); err != nil {
		return nil, err
	}
	var cmds []command.Command
	err := command.ParseBatch(bytes.Clone(req), func(c *command.Command) error {
		cmds = append(cmds, *c)
		return nil
	})
	if err != nil {
		return nil, errs.New(errs.ProtocolViolation, "a forwarded batch cannot be read").Wrap(err)
	}
	if n.leader.current() != n.id {
		return nil, errs.New(errs.NoLeader, "node %s is not the leader", n.id)
	}
	if err := full(); err != nil {
		for range cmds {
			dst = appendOutcome(dst, replica.Result{}, err)
		}
		return dst, nil
	}
	before := len(dst)
	n.queue.DoAll(ctx, cmds, func(res replica.Result, err error) {
		dst = appendOutcome(dst, res, err)
	})
	if size := len(dst) - before; size <= answerPart {
		return dst, nil
	} else if size > maxAnswer {
		return nil, group.Unknown(fmt.Errorf("the answers have %d bytes together", size))
	}
	return n.answers.keep(bytes.Clone(dst[before:]), dst[:before]), nil
}

func appendOutcome(dst []byte, res replica.Result, err error) []byte {
	switch {
	case err == nil:
		dst = append(dst, outcomeOK)
		dst = binary.AppendUvarint(dst, res.Index)
		dst = binary.AppendUvarint(dst, res.Revision)
		changed := byte(0)
		if res.Changed {
			changed = 1
		}
		return appendBytes(append(dst, changed), res.Data)
	case errors.Is(err, errNotTaken):
		return append(dst, outcomeNotTaken)
	}
	e := errs.From(err)
	dst = appendBytes(append(dst, outcomeError), e.Code)
	dst = appendBytes(dst, e.Message)
	dst = binary.AppendUvarint(dst, uint64(len(e.Details)))
	for _, d := range e.Details {
		for _, s := range []string{d.Field, d.Value, d.Limit, d.Help} {
			dst = appendBytes(dst, s)
		}
	}
	return dst
}

func appendBytes[T ~string | ~[]byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// finishAll answers the batch from the leader's answer. On an error nothing has
// been answered.
func finishAll(batch []*group.Proposal, answer []byte) error {
	type outcome struct {
		res replica.Result
		err error
	}
	outs := make([]outcome, len(batch))
	r := outcomeReader{buf: answer}
	for i := range outs {
		outs[i].res, outs[i].err = r.next()
	}
	if r.failed || len(r.buf) > 0 {
		return group.Unknown(fmt.Errorf("the leader's answer to %d commands cannot be read", len(batch)))
	}
	for i, p := range batch {
		p.Finish(outs[i].res, outs[i].err)
	}
	return nil
}

type outcomeReader struct {
	buf    []byte
	failed bool
}

func (r *outcomeReader) next() (replica.Result, error) {
	switch r.byte() {
	case outcomeOK:
		res := replica.Result{Index: r.uvarint(), Revision: r.uvarint(), Changed: r.byte() == 1}
		if data := r.bytes(); len(data) > 0 {
			res.Data = bytes.Clone(data)
		}
		return res, nil
	case outcomeNotTaken:
		return replica.Result{}, errNotTaken
	case outcomeError:
		e := &errs.Error{Code: errs.Code(r.bytes()), Message: string(r.bytes())}
		for range min(r.uvarint(), uint64(len(r.buf))) {
			e.Details = append(e.Details, errs.Detail{
				Field: string(r.bytes()), Value: string(r.bytes()), Limit: string(r.bytes()), Help: string(r.bytes()),
			})
		}
		return replica.Result{}, e
	}
	r.failed = true
	return replica.Result{}, nil
}

func (r *outcomeReader) byte() byte {
	if len(r.buf) == 0 {
		r.failed = true
		return 0xff
	}
	b := r.buf[0]
	r.buf = r.buf[1:]
	return b
}

func (r *outcomeReader) uvarint() uint64 {
	v, k := binary.Uvarint(r.buf)
	if k <= 0 {
		r.failed, r.buf = true, nil
		return 0
	}
	r.buf = r.buf[k:]
	return v
}

func (r *outcomeReader) bytes() []byte {
	size := r.uvarint()
	if size > uint64(len(r.buf)) {
		r.failed, r.buf = true, nil
		return nil
	}
	b := r.buf[:size]
	r.buf = r.buf[size:]
	return b
}
