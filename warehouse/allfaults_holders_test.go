package warehouse_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"nekoq/services/errs"
	"nekoq/services/testkit/history"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

// claimTTL is that of the leases of locks and elections: the least there is, so that
// the holders that die hold nobody up.
const claimTTL = time.Second

// holders takes a lock or leads, writes under the token, keeps its lease alive, and
// gives the token back or dies.
func (r *run) holders(c int, kind api.TokenKind, name string, node int) {
	rnd := rand.New(rand.NewPCG(uint64(c), 5))
	for round := 0; !r.stopped(); round++ {
		kv := r.kv(node + round)
		ctx, cancel := context.WithTimeout(r.ctx, 4*time.Second)
		op := r.fences.Acquire(c, name)
		claim, err := kv.Claim(ctx, &api.ClaimRequest{Kind: kind, Name: name, Holder: fmt.Sprint(c), TTL: claimTTL, Wait: 2 * time.Second})
		cancel()
		switch {
		case err != nil:
			op.Drop()
			if !errs.Has(err, errs.LeaseNotFound) { // it ended in line while no node could keep it
				r.failed("claim", err)
			}
			continue
		case !claim.Held:
			op.Drop()
			continue
		}
		tenure := op.Held(claim.Token, claimTTL)
		r.held.Add(1)
		h := holder{r: r, c: c, token: api.Token{Kind: kind, Name: name, Token: claim.Token}, lease: claim.Lease, tenure: tenure}
		for i := range 2 + rnd.IntN(6) {
			// A holder may change its node.
			if lost := h.turn(r.kv(node+round+rnd.IntN(2)), i, rnd.IntN(3)); lost || r.stopped() {
				break
			}
		}
		switch rnd.IntN(4) {
		case 0: // it dies
		case 1: // it falls asleep until its lease may have ended, and goes on as if nothing had been
			r.rest(claimTTL + time.Duration(rnd.IntN(1000))*time.Millisecond)
			h.turn(r.kv(node+rnd.IntN(3)), 8, 2)
		case 2: // it forgets that it has left
			h.leave(kv)
			h.turn(r.kv(node+rnd.IntN(3)), 9, 1+rnd.IntN(2))
		default:
			h.leave(kv)
		}
	}
}

// holder is a client that was given a token.
type holder struct {
	r      *run
	c      int
	token  api.Token
	lease  uint64
	tenure *history.Tenure
}

// turn does one thing under the token, and tells whether it turned out to be lost.
func (h *holder) turn(kv *warehouse.Service, i, what int) (lost bool) {
	ctx, cancel := h.r.op()
	defer cancel()
	switch what {
	case 0:
		kept := h.tenure.Keep(claimTTL)
		_, err := kv.KeepLease(ctx, h.lease)
		switch {
		case err == nil:
			kept()
		case errs.Has(err, errs.LeaseNotFound):
			return true
		default:
			h.r.failed("keep-alive of a claim", err)
		}
	case 1:
		op := h.r.fences.Write(h.c, h.token.Name, h.token.Token)
		_, err := kv.Proclaim(ctx, h.token.Kind, h.token.Name, h.lease, h.token.Token, fmt.Sprintf("%d, turn %d", h.c, i))
		return h.answer(op, "proclaim", err)
	default:
		key, value := "guarded/"+h.token.Name, fmt.Sprintf("%d/%d/%d", h.token.Token, h.c, i)
		op := h.r.fences.Write(h.c, h.token.Name, h.token.Token)
		w, err := kv.PutHolding(ctx, &api.PutRequest{Key: []byte(key), Value: []byte(value)}, h.token)
		if err == nil {
			h.r.ack(key, value, w.Revision)
		}
		return h.answer(op, "guarded put", err)
	}
	return false
}

func (h *holder) answer(op *history.FenceOp, what string, err error) (lost bool) {
	switch {
	case err == nil:
		op.OK()
	case errs.Has(err, errs.StaleToken), errs.Has(err, errs.NotLeader):
		op.Stale()
		return true
	default:
		op.Drop()
		h.r.failed(what, err)
	}
	return false
}

func (h *holder) leave(kv *warehouse.Service) {
	ctx, cancel := h.r.op()
	defer cancel()
	h.tenure.Leave()
	op := h.r.fences.Release(h.c, h.token.Name, h.token.Token)
	_, err := kv.Release(ctx, &api.ReleaseRequest{Kind: h.token.Kind, Name: h.token.Name, Lease: h.lease, Token: h.token.Token, Revoke: true})
	h.answer(op, "release", err)
}

// looks asks every node who holds and who leads.
func (r *run) looks(c int) {
	for n := 0; !r.stopped(); n++ {
		q := api.LookRequest{Kind: api.TokenLock, Name: "lock"}
		if n%2 == 1 {
			q = api.LookRequest{Kind: api.TokenElection, Name: "election"}
		}
		ctx, cancel := r.op()
		op := r.fences.Look(c, q.Name)
		claim, err := r.kv(n/2).Look(ctx, &q)
		cancel()
		if err != nil {
			op.Drop()
			r.failed("look", err)
		} else {
			op.Saw(claim.Token)
		}
		r.rest(5 * time.Millisecond)
	}
}

// observe follows the election on one node: the tokens of its leaders only grow.
func (r *run) observe(node int) {
	top := uint64(0)
	for !r.stopped() {
		ctx, cancel := r.op()
		o, err := r.kv(node).Observe(ctx, &api.LookRequest{Kind: api.TokenElection, Name: "election"})
		cancel()
		if err != nil {
			r.failed("observe", err)
			continue
		}
		for err == nil && !r.stopped() {
			var claim api.Claim
			ctx, cancel := context.WithTimeout(r.ctx, 300*time.Millisecond)
			claim, err = o.Next(ctx)
			idle := ctx.Err() != nil
			cancel()
			switch {
			case err != nil && idle:
				err = nil
			case err != nil:
				if !errs.Has(err, errs.Compacted) {
					r.failed("observer", err)
				}
			case claim.Token == 0:
			case claim.Token < top:
				r.t.Errorf("node %d shows the leader of token %d after that of %d", node, claim.Token, top)
			default:
				top = claim.Token
			}
		}
		o.Close()
	}
}

// tenants grants leases, hangs keys on them, keeps them alive for a while, and revokes
// them or lets them end.
func (r *run) tenants(c, node int) {
	rnd := rand.New(rand.NewPCG(uint64(c), 9))
	for n := 0; !r.stopped(); n++ {
		ttl := time.Duration(1000+rnd.IntN(1000)) * time.Millisecond
		ctx, cancel := r.op()
		op := r.leases.Begin()
		l, err := r.kv(node+n).GrantLease(ctx, 0, ttl)
		if err != nil {
			cancel()
			r.failed("grant", err)
			continue
		}
		op.Granted(l.ID, ttl)
		key, value := fmt.Sprintf("lease/%d", l.ID), fmt.Sprintf("%d.%d", c, n)
		w, err := r.kv(node+n).Put(ctx, &api.PutRequest{Key: []byte(key), Value: []byte(value), Lease: l.ID})
		cancel()
		switch {
		case err == nil:
			r.ack(key, value, w.Revision)
		case errs.Has(err, errs.LeaseNotFound):
			r.leases.Found(l.ID, "not found by a put")
		default:
			r.failed("put on a lease", err)
		}
		r.life(l.ID, node+n, rnd)
	}
}

// life keeps a lease alive now and then, and looks at it.
func (r *run) life(id uint64, node int, rnd *rand.Rand) {
	for range rnd.IntN(4) {
		r.rest(time.Duration(100+rnd.IntN(400)) * time.Millisecond)
		if r.stopped() {
			return
		}
		kv := r.kv(node + rnd.IntN(3))
		ctx, cancel := r.op()
		if rnd.IntN(2) == 0 {
			op := r.leases.Begin()
			_, err := kv.KeepLease(ctx, id)
			switch {
			case err == nil:
				op.Kept(id)
			case errs.Has(err, errs.LeaseNotFound):
				r.leases.Found(id, "not found by a keep-alive")
			case r.failed("keep-alive", err):
				op.Maybe(id)
			}
		} else {
			op := r.leases.Look(id)
			l, err := kv.LeaseTTL(ctx, id, false)
			switch {
			case err == nil:
				op.Remaining(id, l.Remaining)
			case errs.Has(err, errs.LeaseNotFound):
				r.leases.Found(id, "not found by a look")
			default:
				r.failed("time to live", err)
			}
		}
		cancel()
	}
	if rnd.IntN(4) > 0 {
		return
	}
	ctx, cancel := r.op()
	defer cancel()
	r.leases.Revoking(id)
	if _, err := r.kv(node).RevokeLease(ctx, id); err != nil && !errs.Has(err, errs.LeaseNotFound) {
		r.failed("revoke", err)
	}
}
