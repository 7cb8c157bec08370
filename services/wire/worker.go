package wire

// maxIdleWorkers bounds the goroutines that a connection keeps for its next
// requests.
const maxIdleWorkers = 1024

// A worker is a goroutine that serves requests of one connection, one after the
// other. It is kept for the next request because its stack has grown: handlers
// go deep, and growing a fresh stack for each request doubles the cost of a
// small one. Requests never wait for a worker: with none idle another starts.
type worker struct {
	next chan *call // cap 1: only the one who took the worker sends
}

// workers is the idle ones of a connection, under servConn.mu. The last to come
// is the first to go, so the stacks in use stay few and warm.
type workers struct {
	idle []*worker
	low  int // the fewest that were idle since the last trim
}

// take gives an idle worker, nil for none.
func (p *workers) take() *worker {
	n := len(p.idle) - 1
	if n < 0 {
		return nil
	}
	w := p.idle[n]
	p.idle[n] = nil
	p.idle = p.idle[:n]
	p.low = min(p.low, n)
	return w
}

// release ends the n workers that have been idle longest.
func (p *workers) release(n int) {
	for _, w := range p.idle[:n] {
		close(w.next)
	}
	kept := copy(p.idle, p.idle[n:])
	clear(p.idle[kept:])
	p.idle = p.idle[:kept]
	p.low = min(p.low, kept) // a trim may still come after the connection has closed
}

// start runs c, on w if there is one.
func (sc *servConn) start(c *call, w *worker) {
	if w != nil {
		w.next <- c
		return
	}
	go sc.work(&worker{next: make(chan *call, 1)}, c)
}

func (sc *servConn) work(w *worker, c *call) {
	defer sc.running.Done()
	for c != nil {
		c.run()
		if !sc.park(w) {
			return
		}
		c = <-w.next
	}
}

// park makes w idle; false if it is to end.
func (sc *servConn) park(w *worker) bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.closed || len(sc.pool.idle) >= maxIdleWorkers {
		return false
	}
	sc.pool.idle = append(sc.pool.idle, w)
	return true
}

// trim ends half of the workers that were not needed since the last trim.
func (sc *servConn) trim() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.pool.release((sc.pool.low + 1) / 2)
	sc.pool.low = len(sc.pool.idle)
}
