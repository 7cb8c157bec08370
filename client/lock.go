package client

import (
	"context"
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// Claim is the state of a lock or election: the holder, its fencing token, who waits.
type Claim = api.Claim

// claimStep is how long one request waits in line; the claim keeps its place between.
const claimStep = 5 * time.Second

// Lock is a lock that is held. Its token grows with every holder: a store that keeps
// the greatest token it has seen can refuse a holder that has lost the lock.
type Lock struct {
	Token   uint64
	name    string
	kind    api.TokenKind
	session *Session
	c       *Client
}

// Locks gives locks.
func (c *Client) Locks() *Locks { return (*Locks)(c) }

// Locks is safe for concurrent use.
type Locks Client

// Acquire waits in line for a lock until ctx ends. The lock lives as long as the
// session.
func (l *Locks) Acquire(ctx context.Context, s *Session, name, holder string) (*Lock, error) {
	return (*Client)(l).hold(ctx, api.TokenLock, s, name, holder)
}

// Try takes a lock if it is free; else held is nil and the claim tells who has it.
func (l *Locks) Try(ctx context.Context, s *Session, name, holder string) (held *Lock, now Claim, err error) {
	return (*Client)(l).try(ctx, api.TokenLock, s, name, holder)
}

// Observe tells who holds a lock, now and on every change, until ctx ends.
func (l *Locks) Observe(ctx context.Context, name string) (*Observation, error) {
	return (*Client)(l).observe(ctx, api.TokenLock, name)
}

func (c *Client) try(ctx context.Context, kind api.TokenKind, s *Session, name, holder string) (held *Lock, now Claim, err error) {
	now, err = c.claim(ctx, api.ClaimRequest{Kind: kind, Name: name, Holder: holder, Lease: s.ID()})
	if err == nil && now.Held {
		held = &Lock{Token: now.Token, name: name, kind: kind, session: s, c: c}
	}
	return held, now, err
}

// Look tells who holds a lock and who waits.
func (l *Locks) Look(ctx context.Context, name string) (Claim, error) {
	return (*Client)(l).look(ctx, api.TokenLock, name)
}

// claim is safe to send again: it says nothing new about the same lease.
func (c *Client) claim(ctx context.Context, r api.ClaimRequest) (res Claim, err error) {
	b, err := c.read(ctx, api.MethodClaim, r.Append(nil))
	if err == nil {
		err = res.Decode(b)
	}
	return res, err
}

func (c *Client) look(ctx context.Context, kind api.TokenKind, name string) (res Claim, err error) {
	r := api.LookRequest{Kind: kind, Name: name}
	b, err := c.read(ctx, api.MethodLook, r.Append(nil))
	if err == nil {
		err = res.Decode(b)
	}
	return res, err
}

// hold waits until the session's claim is first in line.
func (c *Client) hold(ctx context.Context, kind api.TokenKind, s *Session, name, holder string) (*Lock, error) {
	wait := claimStep
	for {
		r := api.ClaimRequest{Kind: kind, Name: name, Holder: holder, Lease: s.ID(), Stay: true, Wait: wait}
		one, stop := context.WithTimeout(ctx, 2*claimStep)
		now, err := c.claim(one, r)
		stop()
		switch {
		case err == nil && now.Held:
			return &Lock{Token: now.Token, name: name, kind: kind, session: s, c: c}, nil
		case ctx.Err() != nil:
			c.giveUp(ctx, &api.ReleaseRequest{Kind: kind, Name: name, Lease: s.ID()})
			return nil, errs.From(ctx.Err())
		case err != nil && !retryClaim(err):
			return nil, err
		}
		pause := time.Duration(0)
		if err != nil { // a client that gives up at once must not ask without a pause
			pause = jitter(c.cfg.BackoffMin)
		}
		select {
		case <-s.Done():
			return nil, s.Err()
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func retryClaim(err error) bool {
	return errs.Has(err, errs.DeadlineExceeded) || errs.Has(err, errs.OutcomeUnknown) || tryElsewhere(errs.CodeOf(err))
}

// giveUp leaves the line after the caller's context has ended.
func (c *Client) giveUp(ctx context.Context, r *api.ReleaseRequest) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), claimStep)
	defer stop()
	_, _ = c.write(ctx, api.MethodRelease, r.Append(nil)) // else it goes with its lease
}

// Proof is what a write shows to be refused when the lock was lost: KV.Txn().Holding.
func (l *Lock) Proof() Token { return Token{Kind: l.kind, Name: l.name, Token: l.Token} }

// Done is closed when the session is lost, and the lock with it.
func (l *Lock) Done() <-chan struct{} { return l.session.Done() }

// Release gives the lock back. An error of the code not_leader says that it was lost.
func (l *Lock) Release(ctx context.Context) error {
	r := api.ReleaseRequest{Kind: l.kind, Name: l.name, Lease: l.session.ID(), Token: l.Token}
	_, err := l.c.write(ctx, api.MethodRelease, r.Append(nil))
	return err
}
