package warehouse_test

import (
	"context"
	"testing"
	"time"

	"nekoq/services/command"
	"nekoq/services/replica"
)

// endAfter is a replica whose caller's request ends as soon as a command is carried
// out, and before its answer has been used.
type endAfter struct {
	replica.Replica
	end context.CancelFunc
}

func (e *endAfter) Propose(ctx context.Context, c command.Command) (replica.Result, error) {
	res, err := e.Replica.Propose(ctx, c)
	if e.end != nil {
		e.end()
	}
	return res, err
}

// What was done to a lease is not told as undone because the request ends meanwhile.
func TestLeaseIsGrantedAsTheRequestEnds(t *testing.T) {
	var r *endAfter
	n := localNodeOver(t, nil, func(l replica.Replica) replica.Replica {
		r = &endAfter{Replica: l}
		return r
	})
	within := func() (ctx context.Context) {
		ctx, r.end = context.WithCancel(t.Context())
		return ctx
	}
	l, err := n.KV.GrantLease(within(), 7, time.Minute)
	if err != nil || l.ID != 7 || l.Revision == 0 {
		t.Errorf("grant: %+v %v", l, err)
	}
	if l, err = n.KV.KeepLease(within(), 7); err != nil || l.Remaining != time.Minute {
		t.Errorf("keep-alive: %+v %v", l, err)
	}
	if rev, err := n.KV.RevokeLease(within(), 7); err != nil || rev == 0 {
		t.Errorf("revoke: %d %v", rev, err)
	}
}
