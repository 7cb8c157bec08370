package etcdload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The TTLs of leases that are kept alive over all faults, and of those that are left
// to themselves, in seconds.
const (
	keptTTL      = 6
	abandonedTTL = 2
)

func (l *Load) grant(ctx context.Context, ttl int64) (clientv3.LeaseID, error) {
	op := l.leases.Begin()
	res, err := l.all.Grant(ctx, ttl)
	if err != nil {
		return 0, err
	}
	op.Granted(uint64(res.ID), time.Duration(res.TTL)*time.Second)
	return res.ID, nil
}

// keepLeases keeps a lease alive through all nodes in turn, until the end.
func (l *Load) keepLeases() {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	id := clientv3.NoLease
	for i := 0; l.next(tick); i++ {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout/2)
		if id == clientv3.NoLease {
			if got, err := l.grant(ctx, keptTTL); err == nil {
				id = got
			}
		} else {
			l.keep(ctx, l.each[i%len(l.each)], id)
		}
		cancel()
	}
	if id == clientv3.NoLease {
		return
	}
	l.leases.Revoking(uint64(id))
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	if _, err := l.all.Revoke(ctx, id); err == nil { // else it ends by itself
		l.leases.Gone(uint64(id), "its revocation was acknowledged")
	}
}

func (l *Load) keep(ctx context.Context, c *clientv3.Client, id clientv3.LeaseID) {
	op := l.leases.Begin()
	_, err := c.KeepAliveOnce(ctx, id)
	switch {
	case err == nil:
		op.Kept(uint64(id))
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		l.leases.Gone(uint64(id), "a keep-alive found it gone")
	default:
		op.Maybe(uint64(id))
	}
	l.lookAt(ctx, c, id)
}

// lookAt asks for the time that a lease has left; true: it is gone.
func (l *Load) lookAt(ctx context.Context, c *clientv3.Client, id clientv3.LeaseID) bool {
	op := l.leases.Look(uint64(id))
	res, err := c.TimeToLive(ctx, id)
	switch {
	case err != nil:
		return false
	case res.TTL < 0:
		l.leases.Gone(uint64(id), "a look found it gone")
		return true
	}
	// The answer is rounded down to whole seconds, and less than there is by the step
	// of the lease clock, which is less than a second.
	op.Remaining(uint64(id), time.Duration(min(res.TTL+2, res.GrantedTTL))*time.Second)
	return false
}

// abandonLeases grants leases with a key each and waits for their end.
func (l *Load) abandonLeases() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var open []clientv3.LeaseID
	for i := 0; ; i++ {
		going := l.next(tick)
		if !going && len(open) == 0 {
			return
		}
		if !going {
			<-tick.C
		}
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		c := l.each[i%len(l.each)]
		if going && len(open) < 4 {
			if id, err := l.grant(ctx, abandonedTTL); err == nil {
				_, _ = c.Put(ctx, leasedKey(id), "x", clientv3.WithLease(id))
				open = append(open, id)
			}
		}
		left := open[:0]
		for _, id := range open {
			if !l.lookAt(ctx, c, id) {
				left = append(left, id)
				continue
			}
			l.released.Add(1)
			if res, err := c.Get(ctx, leasedKey(id)); err == nil && len(res.Kvs) > 0 {
				l.tb.Errorf("lease %x is gone and at revision %d its key is there: %v", id, res.Header.Revision, res.Kvs[0])
			}
		}
		open = left
		cancel()
	}
}

func leasedKey(id clientv3.LeaseID) string { return fmt.Sprintf("lease/%x", id) }
