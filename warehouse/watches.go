package warehouse

import (
	"context"

	"nekoq/warehouse/api"
)

// Step is one step of one of many watches: a batch, or the error that ended it
// (compacted, with the compact revision in it; a closed watch gives none).
type Step struct {
	ID    int64
	Batch api.WatchBatch
	Err   error
}

// Watches are many watches read by one goroutine, with no goroutine a watch: a
// connection with thousands of them costs their buffers only. Add, Remove and
// Progress may be called by any goroutine, Next by one.
type Watches struct {
	s *Service
}

// NewWatches makes an empty set.
func (s *Service) NewWatches() *Watches { return &Watches{s: s} }

// Add begins a watch under an id that the set does not have. When it returns, no
// later change is missed. Its revision may be below the compact revision: then Next
// gives the compacted error.
func (ws *Watches) Add(ctx context.Context, id int64, req *api.WatchRequest) error {
	panic("being built")
}

// Remove ends a watch; Next gives nothing of it from now on. False: there is none.
func (ws *Watches) Remove(id int64) bool { panic("being built") }

// Progress makes Next give an empty batch for id, with the revision up to which all
// events have been given, as soon as it has caught up.
func (ws *Watches) Progress(id int64) { panic("being built") }

// Next blocks for the next step of any watch. The batches of one watch are whole
// revisions, in order, without gaps or repeats; empty ones tell progress.
func (ws *Watches) Next(ctx context.Context) (Step, error) { panic("being built") }

// Close ends all watches; a waiting Next fails.
func (ws *Watches) Close() { panic("being built") }
