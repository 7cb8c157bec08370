package raftnode

import (
	"context"

	"github.com/hashicorp/raft"
)

// A node that is the only voter of its cluster has nobody to wait for: it stands for
// election as soon as it runs, in place of waiting for heartbeats that cannot come.
// That is most of the time that one node takes from start to ready. raft has no call
// for it, but obeys a message that an outgoing leader sends (TimeoutNow), and a node
// may tell itself so.

// soleVoter tells whether id votes in c, and nobody else does.
func soleVoter(c raft.Configuration, id raft.ServerID) bool {
	votes := false
	for _, s := range c.Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if s.ID != id {
			return false
		}
		votes = true
	}
	return votes
}

// maybeAlone tells before raft runs whether this node may be the only voter: the
// state knows the last configuration but for what its log has not replayed yet.
func (n *Node) maybeAlone() bool {
	if n.alone {
		return true // bootstrapped so a moment ago
	}
	_, encoded := n.machine.Configuration()
	return len(encoded) > 0 && soleVoter(raft.DecodeConfiguration(encoded), raft.ServerID(n.id))
}

// ownMessages lets this node send itself messages, beside those that come from
// others. Each message from outside costs one more goroutine switch from then on.
func (t *transport) ownMessages(ctx context.Context, start func(func())) {
	t.own = make(chan raft.RPC)
	start(func() {
		in := t.NetworkTransport.Consumer()
		for {
			select {
			case rpc := <-in:
				select {
				case t.own <- rpc:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
}

// Consumer is where raft takes messages from.
func (t *transport) Consumer() <-chan raft.RPC {
	if t.own != nil {
		return t.own
	}
	return t.NetworkTransport.Consumer()
}

// standNow makes raft stand for election. The configuration is the one of the log,
// so a voter that was added in the last moment before a stop counts.
func (n *Node) standNow(r *raft.Raft, t *transport) {
	f := r.GetConfiguration()
	if f.Error() != nil || r.State() != raft.Follower || !soleVoter(f.Configuration(), raft.ServerID(n.id)) {
		return
	}
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.id), Addr: []byte(n.addr)}
	select {
	case t.own <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: header}, RespChan: make(chan raft.RPCResponse, 1)}:
	case <-n.life.Done():
	}
}
