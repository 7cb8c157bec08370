package client

import (
	"context"

	"nekoq/warehouse/api"
)

// Elections gives elections.
func (c *Client) Elections() *Elections { return (*Elections)(c) }

// Elections is safe for concurrent use.
type Elections Client

// Campaign waits until the session's candidate leads. What it gives is used as a
// lock: Token, Proof, Done; Release resigns.
func (e *Elections) Campaign(ctx context.Context, s *Session, name, candidate string) (*Lock, error) {
	return (*Client)(e).hold(ctx, api.TokenElection, s, name, candidate)
}

// Acquire stands for an election and tells at once who leads: the caller, or the one
// before. The candidate stays in line as long as its session lives; Observe tells
// when it leads.
func (e *Elections) Acquire(ctx context.Context, s *Session, name, candidate string) (Claim, error) {
	return (*Client)(e).claim(ctx, api.ClaimRequest{Kind: api.TokenElection, Name: name, Holder: candidate, Lease: s.ID(), Stay: true})
}

// Try leads if nobody else does; else lead is nil, the claim tells who leads, and the
// candidate does not stay in line.
func (e *Elections) Try(ctx context.Context, s *Session, name, candidate string) (lead *Lock, now Claim, err error) {
	return (*Client)(e).try(ctx, api.TokenElection, s, name, candidate)
}

// Leader tells who leads, and who waits.
func (e *Elections) Leader(ctx context.Context, name string) (Claim, error) {
	return (*Client)(e).look(ctx, api.TokenElection, name)
}

// Observe tells who leads, now and on every change, until ctx ends.
func (e *Elections) Observe(ctx context.Context, name string) (*Observation, error) {
	return (*Client)(e).observe(ctx, api.TokenElection, name)
}

func (c *Client) observe(ctx context.Context, kind api.TokenKind, name string) (*Observation, error) {
	r := api.LookRequest{Kind: kind, Name: name}
	s, err := c.stream(ctx, api.MethodObserve, func() ([]byte, error) { return r.Append(nil), nil })
	if err != nil {
		return nil, err
	}
	return &Observation{s: s}, nil
}

// Observation is read by one goroutine.
type Observation struct{ s *stream }

// Next waits for the next state. A connection that is lost is made anew, and the
// present state given again.
func (o *Observation) Next(ctx context.Context) (c Claim, err error) {
	msg, err := o.s.recv(ctx)
	if err == nil {
		err = c.Decode(msg)
	}
	return c, err
}

// Close ends it.
func (o *Observation) Close() { o.s.close() }
