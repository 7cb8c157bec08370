package state

import "container/heap"

// waiter is one WaitApplied call.
type waiter struct {
	index uint64
	ready chan struct{}
	at    int // place in the heap, -1 when removed
}

type waiterHeap []*waiter

func (h waiterHeap) Len() int           { return len(h) }
func (h waiterHeap) Less(i, j int) bool { return h[i].index < h[j].index }
func (h waiterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *waiterHeap) Push(x any) {
	w := x.(*waiter)
	w.at = len(*h)
	*h = append(*h, w)
}

func (h *waiterHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	w.at = -1
	return w
}

func (m *Machine) addWaiter(index uint64) *waiter {
	w := &waiter{index: index, ready: make(chan struct{})}
	m.wait.Lock()
	heap.Push(&m.waiters, w)
	m.waiting.Store(int64(len(m.waiters)))
	m.wait.Unlock()
	return w
}

func (m *Machine) dropWaiter(w *waiter) {
	m.wait.Lock()
	if w.at >= 0 {
		heap.Remove(&m.waiters, w.at)
		m.waiting.Store(int64(len(m.waiters)))
	}
	m.wait.Unlock()
}

// wakeApplied wakes the waiters for indexes up to index. It is called after the
// position was stored, so a waiter that is added too late sees it.
func (m *Machine) wakeApplied(index uint64) {
	if m.waiting.Load() == 0 {
		return
	}
	m.wait.Lock()
	for len(m.waiters) > 0 && m.waiters[0].index <= index {
		close(heap.Pop(&m.waiters).(*waiter).ready)
	}
	m.waiting.Store(int64(len(m.waiters)))
	m.wait.Unlock()
}

// broadcast tells everyone who waits for the committer. The caller holds wait.
func (m *Machine) broadcast() {
	close(m.progress)
	m.progress = make(chan struct{})
}

func (m *Machine) setDurable(seq uint64) {
	m.wait.Lock()
	m.durSeq = max(m.durSeq, seq)
	m.broadcast()
	m.wait.Unlock()
}

func (m *Machine) setStorage(err error) {
	m.wait.Lock()
	changed := (m.storage == nil) != (err == nil)
	m.storage = err
	if err != nil || changed {
		m.broadcast()
	}
	m.wait.Unlock()
	if !changed {
		return
	}
	if err != nil {
		m.log.Error("the state file cannot be written; reads go on", "file", m.opts.Path, "error", err)
	} else {
		m.log.Info("the state file can be written again", "file", m.opts.Path)
	}
	if m.opts.OnStorage != nil {
		m.opts.OnStorage(err)
	}
}

// chainRing keeps the chain hash at the last indexes.
type chainRing struct {
	entries [4096]struct{ index, chain uint64 }
	next, n int
}

func (r *chainRing) reset(index, chain uint64) {
	r.next, r.n = 0, 0
	r.add(index, chain)
}

func (r *chainRing) add(index, chain uint64) {
	r.entries[r.next].index, r.entries[r.next].chain = index, chain
	r.next = (r.next + 1) % len(r.entries)
	r.n = min(r.n+1, len(r.entries))
}

// at finds index by bisection: indexes only rise.
func (r *chainRing) at(index uint64) (uint64, bool) {
	lo, hi := 0, r.n
	for lo < hi {
		mid := (lo + hi) / 2
		if e := r.entries[(r.next-r.n+mid+len(r.entries))%len(r.entries)]; e.index < index {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == r.n {
		return 0, false
	}
	e := r.entries[(r.next-r.n+lo+len(r.entries))%len(r.entries)]
	return e.chain, e.index == index
}
