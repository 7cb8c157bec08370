package link

import "sync"

// maxIdleWorkers bounds the goroutines that a connection keeps for its next
// requests.
const maxIdleWorkers = 1024

// A Worker is a goroutine that serves requests of one connection, one after the
// other. It is kept for the next request because its stack has grown: handlers
// go deep, and growing a fresh stack for each request doubles the cost of a
// small one. Requests never wait for a worker: with none idle another starts.
type Worker[T any] struct {
	next chan T // cap 1: only the one who took the worker sends
}

// Pool is the idle workers of a connection. The last to come is the first to go,
// so the stacks in use stay few and warm.
type Pool[T any] struct {
	// Mu is the connection's mutex, which guards the pool.
	Mu *sync.Mutex
	// Serve serves one request.
	Serve func(T)

	idle    []*Worker[T]
	busy    int // workers that serve
	low     int // the fewest that were idle since the last trim
	closed  bool
	running sync.WaitGroup // workers
}

// Take gives an idle worker, nil for none; Start is to be called with it, whatever
// it is. Mu is held.
func (p *Pool[T]) Take() *Worker[T] {
	p.busy++
	n := len(p.idle) - 1
	if n < 0 {
		p.running.Add(1) // the one to be started
		return nil
	}
	w := p.idle[n]
	p.idle[n] = nil
	p.idle = p.idle[:n]
	p.low = min(p.low, n)
	return w
}

// Start serves t, on w if there is one. Mu is not held.
func (p *Pool[T]) Start(w *Worker[T], t T) {
	if w != nil {
		w.next <- t
		return
	}
	go p.work(&Worker[T]{next: make(chan T, 1)}, t)
}

func (p *Pool[T]) work(w *Worker[T], t T) {
	defer p.running.Done()
	for more := true; more; {
		p.Serve(t)
		if !p.park(w) {
			return
		}
		t, more = <-w.next
	}
}

// park makes w idle; false if it is to end.
func (p *Pool[T]) park(w *Worker[T]) bool {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	p.busy--
	if p.closed || len(p.idle) >= maxIdleWorkers {
		return false
	}
	p.idle = append(p.idle, w)
	return true
}

// release ends the n workers that have been idle longest.
func (p *Pool[T]) release(n int) {
	for _, w := range p.idle[:n] {
		close(w.next)
	}
	kept := copy(p.idle, p.idle[n:])
	clear(p.idle[kept:])
	p.idle = p.idle[:kept]
	p.low = min(p.low, kept) // a trim may still come after the end
}

// Trim ends half of the workers that were not needed since the last trim. Mu is
// held.
func (p *Pool[T]) Trim() {
	p.release((p.low + 1) / 2)
	p.low = len(p.idle)
}

// End ends the idle workers; the others end with what they serve. Mu is held.
func (p *Pool[T]) End() {
	p.closed = true
	p.release(len(p.idle))
}

// Busy gives the number of workers that serve, those included that were taken and not
// started yet. Mu is held.
func (p *Pool[T]) Busy() int { return p.busy }

// Wait waits until no worker is left, after End. Mu is not held.
func (p *Pool[T]) Wait() { p.running.Wait() }
