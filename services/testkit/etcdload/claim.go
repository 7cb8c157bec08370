package etcdload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"nekoq/warehouse/etcd/lockpb"
)

// The TTL of the leases on which locks and elections hang, in seconds: short enough
// that holders lose them to faults.
const claimTTL = 2

// claimKind is a way to be the only one.
type claimKind int

const (
	mutex       claimKind = iota // of the client library
	lockService                  // of the server
	election                     // of the client library
)

func (k claimKind) name() string { return [...]string{"lock/m", "lock/s", "elect/e"}[k] }

// guard is the key that only the holder writes.
func (k claimKind) guard() string { return "guard/" + k.name() }

// claim takes the lock, or leads, again and again, and writes while it does.
func (l *Load) claim(client int, c *clientv3.Client, kind claimKind) {
	rnd := rand.New(rand.NewPCG(uint64(client), 2))
	tick := time.NewTicker(4 * pause)
	defer tick.Stop()
	for l.next(tick) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*opTimeout)
		l.tenure(ctx, client, c, kind, rnd)
		cancel()
	}
}

// tenure is one of them. Some holders die: their lease has to end first.
func (l *Load) tenure(ctx context.Context, client int, c *clientv3.Client, kind claimKind, rnd *rand.Rand) {
	op := l.fences.Acquire(client, kind.name())
	lease, err := c.Grant(ctx, claimTTL)
	if err != nil {
		op.Drop()
		return
	}
	s, err := concurrency.NewSession(c, concurrency.WithLease(lease.ID), concurrency.WithContext(ctx))
	if err != nil || s == nil {
		op.Drop()
		return
	}
	key, token, err := acquire(ctx, c, s, kind)
	if err != nil {
		op.Drop()
		_ = s.Close() // fails with the cluster; the lease ends then
		return
	}
	held := op.Held(token, claimTTL*time.Second)
	l.held.Add(1)
	for i := range 1 + rnd.IntN(3) {
		w := l.fences.Write(client, kind.name(), token)
		res, err := c.Txn(ctx).If(owns(key, token)).Then(clientv3.OpPut(kind.guard(), fmt.Sprintf("%d by %d, %d", token, client, i))).Commit()
		switch {
		case err != nil:
			w.Drop()
		case res.Succeeded:
			w.OK()
		default:
			w.Stale()
		}
	}
	held.Leave()
	switch rnd.IntN(6) {
	case 0: // dies
		s.Orphan()
		return
	case 1, 2: // gives back and is told whether it still held
		r := l.fences.Release(client, kind.name(), token)
		res, err := c.Txn(ctx).If(owns(key, token)).Then(clientv3.OpDelete(key)).Commit()
		switch {
		case err != nil:
			r.Drop()
		case res.Succeeded:
			r.OK()
		default:
			r.Stale()
		}
	case 3:
		giveBack(ctx, c, s, kind, key, int64(token))
	}
	_ = s.Close() // deletes the key where it is left
}

func owns(key string, token uint64) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(key), "=", int64(token))
}

// acquire gives the key that stands for the holder, and its create revision, which is
// the fencing token.
func acquire(ctx context.Context, c *clientv3.Client, s *concurrency.Session, kind claimKind) (key string, token uint64, err error) {
	switch kind {
	case mutex:
		m := concurrency.NewMutex(s, kind.name())
		if err := m.Lock(ctx); err != nil {
			return "", 0, err
		}
		own := m.IsOwner()
		return m.Key(), uint64(own.GetCompare().GetCreateRevision()), nil
	case election:
		e := concurrency.NewElection(s, kind.name())
		err := e.Campaign(ctx, fmt.Sprintf("%x", s.Lease()))
		return e.Key(), uint64(e.Rev()), err
	}
	res, err := lockpb.NewLockClient(c.ActiveConnection()).Lock(ctx, &lockpb.LockRequest{Name: []byte(kind.name()), Lease: int64(s.Lease())})
	if err != nil {
		return "", 0, err
	}
	got, err := c.Get(ctx, string(res.Key))
	if err != nil {
		return "", 0, err
	}
	if len(got.Kvs) == 0 {
		return "", 0, errors.New("lost already")
	}
	return string(res.Key), uint64(got.Kvs[0].CreateRevision), nil
}

// giveBack is what programs call; it does not tell whether the key was still there.
func giveBack(ctx context.Context, c *clientv3.Client, s *concurrency.Session, kind claimKind, key string, rev int64) {
	switch kind {
	case election:
		_ = concurrency.ResumeElection(s, kind.name(), key, rev).Resign(ctx)
	case lockService:
		_, _ = lockpb.NewLockClient(c.ActiveConnection()).Unlock(ctx, &lockpb.UnlockRequest{Key: []byte(key)})
	default:
		_, _ = c.Delete(ctx, key)
	}
}

// look asks who leads.
func (l *Load) look(client int, c *clientv3.Client) {
	tick := time.NewTicker(5 * pause)
	defer tick.Stop()
	for l.next(tick) {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		op := l.fences.Look(client, election.name())
		res, err := c.Get(ctx, election.name()+"/", clientv3.WithFirstCreate()...)
		switch {
		case err != nil:
			op.Drop()
		case len(res.Kvs) == 0:
			op.Saw(0)
		default:
			op.Saw(uint64(res.Kvs[0].CreateRevision))
		}
		cancel()
	}
}

// tokenOf reads the token from a value of a guarded key.
func tokenOf(value string) uint64 {
	text, _, _ := strings.Cut(value, " ")
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}
