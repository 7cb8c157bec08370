// Package authtest has authorizers for tests: one that records what it was
// asked, one that refuses. It owns nothing; both are safe for concurrent use.
// Only tests import it.
package authtest

import (
	"context"
	"slices"
	"sync"

	"nekoq/services/auth"
	"nekoq/services/errs"
)

// Ask is one question that an authorizer was asked.
type Ask struct {
	Principal auth.Principal
	Action    auth.Action
	Resource  auth.Resource
}

// Recorder notes every question and answers with Answer, nil for allowed.
type Recorder struct {
	// Answer decides; nil allows everything. Set it before use.
	Answer func(Ask) error

	mu   sync.Mutex
	asks []Ask
}

// Allow implements auth.Authorizer.
func (r *Recorder) Allow(_ context.Context, p auth.Principal, a auth.Action, res auth.Resource) error {
	ask := Ask{p, a, res}
	r.mu.Lock()
	r.asks = append(r.asks, ask)
	r.mu.Unlock()
	if r.Answer != nil {
		return r.Answer(ask)
	}
	return nil
}

// Take gives the questions asked since the last Take.
func (r *Recorder) Take() []Ask {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.asks)
	r.asks = r.asks[:0]
	return out
}

// DenyAll is a Recorder that refuses everything.
func DenyAll() *Recorder {
	return &Recorder{Answer: func(a Ask) error {
		return errs.New(errs.Forbidden, "%s may not %s %s", a.Principal.Name, a.Action, a.Resource)
	}}
}
