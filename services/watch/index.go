package watch

import (
	"bytes"
	"math/rand/v2"
	"sync"
)

// index finds the subscribers of a key. Subscribers with the same filter share
// a group, so that ten thousand on one prefix cost one lookup. An exact key is
// a map access; ranges are an interval tree per topic.
type index struct {
	mu      sync.Mutex
	topics  map[Topic]*topicIndex
	touched []*group // scratch of the dispatcher
}

type topicIndex struct {
	exact  map[string]*group
	ranges *node
}

// group is all subscribers of one filter.
type group struct {
	subs []*Sub
	// pending collects what the present chunk has for the group, and batches the
	// number of the batch that each event came in.
	pending []Event
	batches []uint64
}

func (g *group) add(s *Sub) {
	s.group, s.slot = g, len(g.subs)
	g.subs = append(g.subs, s)
}

func (g *group) remove(s *Sub) {
	last := len(g.subs) - 1
	g.subs[s.slot] = g.subs[last]
	g.subs[s.slot].slot = s.slot
	g.subs[last] = nil
	g.subs = g.subs[:last]
	s.group, s.slot = nil, -1
}

// span is a filter's range: start <= key, and key < end unless open.
type span struct {
	start, end []byte
	open       bool
}

func spanOf(f Filter) (sp span, exact bool) {
	switch {
	case len(f.End) == 1 && f.End[0] == 0, len(f.Start) == 0 && len(f.End) == 0:
		return span{start: f.Start, open: true}, false
	case len(f.End) == 0:
		return span{}, true
	}
	return span{start: f.Start, end: f.End}, false
}

func (sp span) compare(o span) int {
	if c := bytes.Compare(sp.start, o.start); c != 0 {
		return c
	}
	return sp.compareEnd(o)
}

func (sp span) compareEnd(o span) int {
	switch {
	case sp.open && o.open:
		return 0
	case sp.open:
		return 1
	case o.open:
		return -1
	}
	return bytes.Compare(sp.end, o.end)
}

func (sp span) endsAfter(key []byte) bool { return sp.open || bytes.Compare(key, sp.end) < 0 }

func (x *index) add(s *Sub) {
	t := x.topics[s.filter.Topic]
	if t == nil {
		t = &topicIndex{exact: make(map[string]*group)}
		x.topics[s.filter.Topic] = t
	}
	sp, exact := spanOf(s.filter)
	if exact {
		g := t.exact[string(s.filter.Start)]
		if g == nil {
			g = new(group)
			t.exact[string(s.filter.Start)] = g
		}
		g.add(s)
		return
	}
	n := t.ranges.find(sp)
	if n == nil {
		n = &node{span: sp, priority: rand.Uint64(), group: new(group)}
		t.ranges = insert(t.ranges, n)
	}
	n.group.add(s)
}

func (x *index) remove(s *Sub) {
	g := s.group
	if g == nil {
		return
	}
	g.remove(s)
	if len(g.subs) > 0 {
		return
	}
	t := x.topics[s.filter.Topic]
	if sp, exact := spanOf(s.filter); exact {
		delete(t.exact, string(s.filter.Start))
	} else {
		t.ranges = remove(t.ranges, sp)
	}
	if len(t.exact) == 0 && t.ranges == nil {
		delete(x.topics, s.filter.Topic)
	}
}

// match adds e to every group that wants it, and the groups that had nothing
// before to touched.
func (t *topicIndex) match(e *Event, batch uint64, touched []*group) []*group {
	if g := t.exact[string(e.Key)]; g != nil {
		touched = g.collect(e, batch, touched)
	}
	return t.ranges.match(e, batch, touched)
}

func (g *group) collect(e *Event, batch uint64, touched []*group) []*group {
	if len(g.pending) == 0 {
		touched = append(touched, g)
	}
	g.pending = append(g.pending, *e)
	g.batches = append(g.batches, batch)
	return touched
}

// reset empties the scratch and lets go of one that a great batch made large.
func (g *group) reset() {
	if cap(g.pending) > chunkEvents {
		g.pending, g.batches = nil, nil
		return
	}
	clear(g.pending)
	g.pending, g.batches = g.pending[:0], g.batches[:0]
}

func (t *topicIndex) all(dst []*Sub) []*Sub {
	for _, g := range t.exact {
		dst = append(dst, g.subs...)
	}
	return t.ranges.all(dst)
}

// node is one range in a treap ordered by (start, end), augmented with the
// greatest end below it (the interval tree of Cormen et al., chapter 14.3).
type node struct {
	span        span
	last        span // the span of the subtree that ends last
	priority    uint64
	left, right *node
	group       *group
}

func (n *node) update() {
	n.last = n.span
	for _, c := range []*node{n.left, n.right} {
		if c != nil && c.last.compareEnd(n.last) > 0 {
			n.last = c.last
		}
	}
}

func (n *node) find(sp span) *node {
	for n != nil {
		switch c := sp.compare(n.span); {
		case c == 0:
			return n
		case c < 0:
			n = n.left
		default:
			n = n.right
		}
	}
	return nil
}

func (n *node) match(e *Event, batch uint64, touched []*group) []*group {
	for n != nil {
		if !n.last.endsAfter(e.Key) {
			return touched // everything below ends at or before the key
		}
		touched = n.left.match(e, batch, touched)
		if bytes.Compare(n.span.start, e.Key) > 0 {
			return touched // so does everything to the right
		}
		if n.span.endsAfter(e.Key) {
			touched = n.group.collect(e, batch, touched)
		}
		n = n.right
	}
	return touched
}

func (n *node) all(dst []*Sub) []*Sub {
	if n == nil {
		return dst
	}
	dst = append(n.left.all(dst), n.group.subs...)
	return n.right.all(dst)
}

// insert puts n, which is not in the tree, below root.
func insert(root, n *node) *node {
	if root == nil {
		n.update()
		return n
	}
	if n.span.compare(root.span) < 0 {
		root.left = insert(root.left, n)
		if root.left.priority > root.priority {
			return rotateRight(root)
		}
	} else {
		root.right = insert(root.right, n)
		if root.right.priority > root.priority {
			return rotateLeft(root)
		}
	}
	root.update()
	return root
}

func rotateRight(n *node) *node {
	l := n.left
	n.left, l.right = l.right, n
	n.update()
	l.update()
	return l
}

func rotateLeft(n *node) *node {
	r := n.right
	n.right, r.left = r.left, n
	n.update()
	r.update()
	return r
}

func remove(root *node, sp span) *node {
	if root == nil {
		return nil
	}
	switch c := sp.compare(root.span); {
	case c < 0:
		root.left = remove(root.left, sp)
	case c > 0:
		root.right = remove(root.right, sp)
	default:
		return merge(root.left, root.right)
	}
	root.update()
	return root
}

// merge joins two trees, every span of a before every span of b.
func merge(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = merge(a.right, b)
		a.update()
		return a
	}
	b.left = merge(a, b.left)
	b.update()
	return b
}
