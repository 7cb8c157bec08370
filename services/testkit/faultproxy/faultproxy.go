// Package faultproxy stands between two nodes of a test and does to their
// connections what networks do: delay, stall, cut and refuse, each direction by
// itself.
//
// A Link is safe for concurrent use. Only tests import it.
package faultproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Direction of bytes on a link, seen from the side that dials.
type Direction int

// The directions.
const (
	Out Direction = iota
	Back
)

// ErrCut is the error of a dial over a link that is cut.
var ErrCut = errors.New("faultproxy: the link is cut")

// Link carries connections from one node to another.
type Link struct {
	dial func(ctx context.Context) (net.Conn, error)

	mu      sync.Mutex
	cut     bool
	stalled [2]bool
	delay   [2]time.Duration
	changed chan struct{} // closed and replaced on every change
	pairs   map[*pair]struct{}
	closed  bool
	wg      sync.WaitGroup
}

type pair struct{ near, far net.Conn }

// New makes a link to what dial reaches.
func New(dial func(ctx context.Context) (net.Conn, error)) *Link {
	return &Link{dial: dial, changed: make(chan struct{}), pairs: map[*pair]struct{}{}}
}

// Serve carries every connection that ln accepts, until ln closes.
func (l *Link) Serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_ = l.Carry(ctx, c)
		cancel()
	}
}

// Carry connects near to the other side; it owns near from now on.
func (l *Link) Carry(ctx context.Context, near net.Conn) error {
	l.mu.Lock()
	refuse := l.cut || l.closed
	l.mu.Unlock()
	if refuse {
		_ = near.Close()
		return ErrCut
	}
	far, err := l.dial(ctx)
	if err != nil {
		_ = near.Close()
		return err
	}
	p := &pair{near, far}
	l.mu.Lock()
	if l.cut || l.closed {
		l.mu.Unlock()
		p.close()
		return ErrCut
	}
	l.pairs[p] = struct{}{}
	l.wg.Add(2)
	l.mu.Unlock()
	go l.pump(p, Out, near, far)
	go l.pump(p, Back, far, near)
	return nil
}

func (p *pair) close() {
	_ = p.near.Close()
	_ = p.far.Close()
}

// chunk is one read on its way through a delay.
type chunk struct {
	data []byte
	due  time.Time
}

// pump moves bytes of one direction. Reading and writing are apart, so that a
// delay does not lower the throughput.
func (l *Link) pump(p *pair, d Direction, from, to net.Conn) {
	defer l.wg.Done()
	queue := make(chan chunk, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer l.drop(p)
		for c := range queue {
			if !l.pass(d, c.due) {
				return
			}
			if _, err := to.Write(c.data); err != nil {
				return
			}
		}
	}()
	for {
		buf := make([]byte, 32<<10)
		n, err := from.Read(buf)
		if n > 0 {
			l.mu.Lock()
			due := time.Now().Add(l.delay[d])
			l.mu.Unlock()
			select {
			case queue <- chunk{buf[:n], due}:
			case <-done:
				return
			}
		}
		if err != nil {
			close(queue)
			if !errors.Is(err, io.EOF) {
				l.drop(p)
			}
			<-done
			return
		}
	}
}

// pass waits until a chunk may go on; false when the link is closed.
func (l *Link) pass(d Direction, due time.Time) bool {
	for {
		l.mu.Lock()
		stalled, closed, changed := l.stalled[d], l.closed || l.cut, l.changed
		l.mu.Unlock()
		if closed {
			return false
		}
		left := time.Until(due)
		if !stalled && left <= 0 {
			return true
		}
		if stalled {
			<-changed
			continue
		}
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-changed:
		}
		t.Stop()
	}
}

func (l *Link) drop(p *pair) {
	l.mu.Lock()
	delete(l.pairs, p)
	l.mu.Unlock()
	p.close()
}

func (l *Link) change(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn()
	close(l.changed)
	l.changed = make(chan struct{})
}

// Stall holds the bytes of a direction back, as lost packets do, until Heal.
func (l *Link) Stall(d Direction) { l.change(func() { l.stalled[d] = true }) }

// Delay makes the bytes of a direction arrive later.
func (l *Link) Delay(d Direction, by time.Duration) { l.change(func() { l.delay[d] = by }) }

// Break closes the connections; new ones pass.
func (l *Link) Break() {
	l.mu.Lock()
	var all []*pair
	for p := range l.pairs {
		all = append(all, p)
	}
	l.mu.Unlock()
	for _, p := range all {
		l.drop(p)
	}
}

// Cut closes the connections and refuses new ones until Heal.
func (l *Link) Cut() {
	l.change(func() { l.cut = true })
	l.Break()
}

// Heal takes every fault away.
func (l *Link) Heal() {
	l.change(func() { l.cut, l.stalled, l.delay = false, [2]bool{}, [2]time.Duration{} })
}

// Close ends the link for good and waits for its goroutines.
func (l *Link) Close() {
	l.change(func() { l.closed = true })
	l.Break()
	l.wg.Wait()
}
