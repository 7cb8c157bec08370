package peer

import (
	"context"
	"encoding/json"

	"nekoq/services/errs"
	"nekoq/services/peer/api"
	"nekoq/services/wire"
)

// The peer calls of this package, range 0x0f20-0x0f5f. They speak JSON and
// ignore members that they do not know, so that nodes of two versions understand
// each other.
const (
	methodPing     wire.Method = 0x0f20 // api.Report of the node
	methodJoin     wire.Method = 0x0f21 // guest and member port: take a node in
	methodRemove   wire.Method = 0x0f22
	methodTransfer wire.Method = 0x0f23
	methodPromote  wire.Method = 0x0f24
	methodCompare  wire.Method = 0x0f25 // leader: compare the hashes now
	methodHash     wire.Method = 0x0f26 // this node's hash at an index
	methodVerdict  wire.Method = 0x0f27 // the leader's comparison, for every node to know
)

func (s *Service) registerMethods() {
	s.mux.Unary(methodPing, "peer.ping", unary(func(context.Context, api.Done) (api.Report, error) {
		if s.at.Store == nil {
			return api.Report{}, errs.New(errs.Unavailable, "the node is starting")
		}
		return s.report(), nil
	}))
	s.mux.Unary(methodJoin, "peer.join", unary(s.admit))
	s.mux.Unary(methodRemove, "peer.remove", unary(s.removeHere))
	s.mux.Unary(methodTransfer, "peer.transfer", unary(s.transferHere))
	s.mux.Unary(methodPromote, "peer.promote", unary(s.promoteHere))
	s.mux.Unary(methodCompare, "peer.compare_hashes", unary(s.compareHere))
	s.mux.Unary(methodHash, "peer.hash", unary(s.hashHere))
	s.mux.Unary(methodVerdict, "peer.hash_verdict", unary(s.takeVerdict))
	s.guestMux.Unary(methodJoin, "peer.join", unary(s.joinByGuest))
}

// unary makes a wire.Unary of a function over JSON types.
func unary[In, Out any](f func(context.Context, In) (Out, error)) wire.Unary {
	return func(ctx context.Context, req, dst []byte) ([]byte, error) {
		var in In
		if err := json.Unmarshal(req, &in); err != nil {
			return nil, errs.New(errs.ProtocolViolation, "the peer call cannot be decoded").Wrap(err)
		}
		out, err := f(ctx, in)
		if err != nil {
			return nil, err
		}
		b, err := json.Marshal(out)
		if err != nil {
			return nil, errs.New(errs.Internal, "the answer cannot be encoded").Wrap(err)
		}
		return append(dst, b...), nil
	}
}

// ask is the calling side of unary.
func ask[In, Out any](ctx context.Context, s *Service, node string, m wire.Method, in In) (out Out, err error) {
	req, err := json.Marshal(in)
	if err != nil {
		return out, errs.New(errs.Internal, "the peer call cannot be encoded").Wrap(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	b, err := s.Call(ctx, node, m, req)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, errs.New(errs.ProtocolViolation, "the answer of node %s cannot be decoded", node).Wrap(err)
	}
	return out, nil
}

// onLeader runs a verb on the leader, wherever that is, and follows it over
// leader changes until ctx ends. again tells a repeated try that an earlier one
// may have taken effect.
func onLeader[In, Out any](ctx context.Context, s *Service, m wire.Method, in In, here func(context.Context, In) (Out, error)) (out Out, again bool, err error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 4*s.cfg.CallTimeout)
		defer cancel()
	}
	for {
		leader, _ := s.at.Replica.Leader()
		switch leader {
		case "":
			err = errs.New(errs.NoLeader, "the cluster has no leader now")
		case s.nodeID:
			out, err = here(ctx, in)
		default:
			out, err = ask[In, Out](ctx, s, leader, m, in)
		}
		if _, final := lasting(err); final {
			return out, again, err
		}
		switch errs.CodeOf(err) {
		case errs.NoLeader, errs.Unavailable, errs.ShuttingDown:
		case errs.OutcomeUnknown:
			again = true
		default:
			return out, again, err
		}
		if why := s.removed.Load(); why != nil { // nobody hears this node any more
			if !again {
				err = errs.New(errs.Unavailable, "%s", *why)
			}
			return out, again, err
		}
		if !s.pause(ctx, s.cfg.RedialMin) {
			return out, again, err
		}
	}
}

// leads is the check of every verb that only the leader carries out.
func (s *Service) leads() error {
	if s.at.Replica == nil || !s.at.Replica.IsLeader() {
		return errs.New(errs.NoLeader, "node %s does not lead", s.nodeID)
	}
	return nil
}
