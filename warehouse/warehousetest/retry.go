package warehousetest

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/lease"
	"nekoq/services/state"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

// retrying is warehouse as a client sees it: a slow machine may cost a Raft group
// its leader at any time, so writes carry request ids and are sent again until
// their outcome is known. That each takes effect once is part of the test.
type retrying struct{ *Node }

func (n *Node) kv() retrying { return retrying{n} }

// sessions are the client sessions of a node that nobody uses now.
type sessions struct {
	mu   sync.Mutex
	free []*session
}

type session struct{ id, seq uint64 }

func (n *Node) take(ctx context.Context) (*session, error) {
	n.sess.mu.Lock()
	if k := len(n.sess.free); k > 0 {
		s := n.sess.free[k-1]
		n.sess.free = n.sess.free[:k-1]
		n.sess.mu.Unlock()
		return s, nil
	}
	n.sess.mu.Unlock()
	s := &session{}
	err := again(ctx, func() error {
		r, err := n.Replica.Propose(ctx, state.OpenSession())
		if err == nil {
			s.id = binary.BigEndian.Uint64(r.Data)
		}
		return err
	})
	return s, err
}

// once sends a write until its outcome is known.
func (n *Node) once(ctx context.Context, do func(ctx context.Context) error) error {
	s, err := n.take(ctx)
	if err != nil {
		return err
	}
	s.seq++
	ctx = command.NewContext(ctx, command.RequestID{Session: s.id, Seq: s.seq, Acked: s.seq})
	err = again(ctx, func() error { return do(ctx) })
	n.sess.mu.Lock()
	n.sess.free = append(n.sess.free, s)
	n.sess.mu.Unlock()
	return err
}

// again repeats what failed for want of a leader.
func again(ctx context.Context, do func() error) error {
	for {
		err := do()
		switch errs.CodeOf(err) {
		case errs.NoLeader, errs.OutcomeUnknown, errs.Unavailable, errs.TooManyRequests:
		default:
			return err
		}
		t := time.NewTimer(10 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}

func (r retrying) Put(ctx context.Context, q *api.PutRequest) (w api.WriteResult, err error) {
	err = r.once(ctx, func(ctx context.Context) (err error) { w, err = r.KV.Put(ctx, q); return err })
	return w, err
}

func (r retrying) Delete(ctx context.Context, q *api.DeleteRequest) (w api.WriteResult, err error) {
	err = r.once(ctx, func(ctx context.Context) (err error) { w, err = r.KV.Delete(ctx, q); return err })
	return w, err
}

func (r retrying) Compact(ctx context.Context, rev uint64) (got uint64, err error) {
	err = r.once(ctx, func(ctx context.Context) (err error) { got, err = r.KV.Compact(ctx, rev); return err })
	return got, err
}

func (r retrying) Grant(ctx context.Context, id uint64, ttl time.Duration, meta []byte) (l lease.Info, err error) {
	err = r.once(ctx, func(ctx context.Context) (err error) { l, err = r.Leases.Grant(ctx, id, ttl, meta); return err })
	return l, err
}

func (r retrying) KeepAlive(ctx context.Context, id uint64) (l lease.Info, err error) {
	err = r.once(ctx, func(ctx context.Context) (err error) { l, err = r.Leases.KeepAlive(ctx, id); return err })
	return l, err
}

func (r retrying) Revoke(ctx context.Context, id uint64) (rev uint64, err error) {
	err = r.once(ctx, func(ctx context.Context) (err error) { rev, err = r.Leases.Revoke(ctx, id); return err })
	return rev, err
}

func (r retrying) Get(ctx context.Context, q *api.GetRequest) (res api.GetResult, err error) {
	err = again(ctx, func() (err error) { res, err = r.KV.Get(ctx, q); return err })
	return res, err
}

func (r retrying) List(ctx context.Context, q *api.ListRequest) (res api.ListResult, err error) {
	err = again(ctx, func() (err error) { res, err = r.KV.List(ctx, q); return err })
	return res, err
}

func (r retrying) History(ctx context.Context, q *api.HistoryRequest) (res api.HistoryResult, err error) {
	err = again(ctx, func() (err error) { res, err = r.KV.History(ctx, q); return err })
	return res, err
}

func (r retrying) Watch(ctx context.Context, q *api.WatchRequest) (w *warehouse.Watcher, err error) {
	err = again(ctx, func() (err error) { w, err = r.KV.Watch(ctx, q); return err })
	return w, err
}

func (r retrying) WatchKey(ctx context.Context, key []byte, after uint64, now bool) (k *warehouse.KeyWait, err error) {
	err = again(ctx, func() (err error) { k, err = r.KV.WatchKey(ctx, key, after, now); return err })
	return k, err
}
