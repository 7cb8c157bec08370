package conf

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"nekoq/services/errs"
	"nekoq/services/state"
	areasapi "nekoq/warehouse/areas/api"
	"nekoq/warehouse/conf/api"
)

// Limits of what a client says of itself.
const (
	maxClientName = 128
	maxLabels     = 16
)

// asked is a checked EffectiveRequest.
type asked struct {
	api.EffectiveRequest
	client api.Client
}

func checkEffective(r api.EffectiveRequest) (*asked, error) {
	if r.Area != "" {
		if err := areasapi.CheckName("area", r.Area); err != nil {
			return nil, err
		}
	}
	if err := api.CheckGroup("group", r.Group); err != nil {
		return nil, err
	}
	if r.Key != "" {
		if err := api.CheckKey("key", r.Key); err != nil {
			return nil, err
		}
	}
	if len(r.Client) > maxClientName || !utf8.ValidString(r.Client) {
		return nil, errs.Invalid("client", r.Client, "up to 128 bytes of UTF-8")
	}
	if len(r.Labels) > maxLabels {
		return nil, errs.Invalid("labels", len(r.Labels), "at most 16 labels")
	}
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		if k == "" || len(k) > api.MaxGroup || len(r.Labels[k]) > api.MaxKey || !utf8.ValidString(k+r.Labels[k]) {
			return nil, errs.Invalid("labels", k, "names of 1 to 128 bytes of UTF-8 with values of up to 256")
		}
	}
	a := &asked{EffectiveRequest: r, client: api.Client{Name: r.Client, Labels: r.Labels}}
	if r.IP != "" {
		ip, err := netip.ParseAddr(r.IP)
		if err != nil {
			return nil, errs.Invalid("ip", r.IP, "an IP address")
		}
		a.client.IP = ip
	}
	return a, nil
}

// Effective gives what a client gets: all keys of a group, or one. Hidden keys are
// not among them. With r.Hash of the same, it gives no values.
func (s *Service) Effective(ctx context.Context, r api.EffectiveRequest) (*api.Effective, error) {
	a, err := checkEffective(r)
	if err != nil {
		return nil, err
	}
	v, err := s.view(ctx, r.Stale)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	return s.effective(v, a, r.Hash)
}

// effective works out what a client gets; the values only when their hash is not
// have.
func (s *Service) effective(v *state.View, a *asked, have string) (*api.Effective, error) {
	d := newReading(v, &a.client)
	area := a.Area
	if area == "" {
		area = d.scopeOf()
	}
	if _, ok := d.tree.Get(area); !ok {
		return nil, errs.New(errs.NotFound, "area: there is no area named %q", area).With(errs.Detail{Field: "area", Value: area})
	}
	out := &api.Effective{Area: area, Group: a.Group, Revision: d.revision()}
	s.metrics.evaluations.Inc()
	at := cacheKey{area, a.Group, a.Key}
	if c, ok := s.cache.get(at, d); ok {
		s.metrics.cached.Inc()
		if out.Hash = c.hash; c.hash == have {
			return out, nil
		}
		if c.values != nil {
			out.Changed, out.Values = true, c.values
			return out, nil
		}
	}
	list := d.wanted(area, a)
	e, err := d.evaluate(area, list, have == "")
	if err != nil {
		return nil, damaged(err)
	}
	out.Hash, out.Changed = e.hash, e.hash != have
	if out.Changed && have != "" {
		if e, err = d.evaluate(area, list, true); err != nil {
			return nil, damaged(err)
		}
	}
	s.cache.put(at, d, e)
	out.Values = e.values
	return out, nil
}

// revision is the store revision of the last change that can move what a client
// gets. A node that shows it has applied everything up to it.
func (d *reading) revision() uint64 { return max(d.x.Counters.Revision, d.tree.Revision()) }

func (d *reading) wanted(area string, a *asked) []found {
	switch {
	case a.Key == "":
		return d.all(area, a.Group)
	case api.Hidden(a.Key):
		return nil
	}
	if f, ok := d.find(area, a.Group, a.Key); ok {
		return []found{f}
	}
	return nil
}

// cache remembers what all clients get alike, as of the last change of items or
// areas. Listeners that a change does not concern then cost a look-up, and so do all
// but the first of those that get the same. What it gives is never changed.
type cache struct {
	mu           sync.Mutex
	items, areas uint64 // revisions
	sets         map[cacheKey]evaluated
	bytes        int // of the values that are kept
}

type cacheKey struct{ area, group, key string }

// Bounds of the cache. Without room for the values, the hash is kept.
const (
	maxCached      = 100_000
	maxCachedBytes = 16 << 20
)

func (c *cache) get(k cacheKey, d *reading) (evaluated, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.items != d.x.Counters.Revision || c.areas != d.tree.Revision() {
		return evaluated{}, false
	}
	e, ok := c.sets[k]
	return e, ok
}

func (c *cache) put(k cacheKey, d *reading, e evaluated) {
	if d.gray {
		return
	}
	size := 0
	for i := range e.values {
		size += len(e.values[i].Bytes) + valueOverhead
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	items, areas := d.x.Counters.Revision, d.tree.Revision()
	if items < c.items || areas < c.areas {
		return
	}
	if c.sets == nil || items != c.items || areas != c.areas || len(c.sets) >= maxCached {
		c.items, c.areas, c.sets, c.bytes = items, areas, map[cacheKey]evaluated{}, 0
	}
	if old, ok := c.sets[k]; ok && old.values != nil {
		return
	}
	if c.bytes += size; c.bytes > maxCachedBytes {
		c.bytes -= size
		e.values = nil
	}
	c.sets[k] = e
}

// valueOverhead is about what a value takes beside its content, in bytes.
const valueOverhead = 512

// Listening is one client that waits for changes, read by one goroutine.
type Listening struct {
	s     *Service
	asked *asked
	entry *entry
	hash  string
	least uint64 // the revision of what the client has
	seen  uint64 // the revision at the last look
	first bool
	open  bool
}

// Listen begins to listen for what a client with r.Hash does not have yet.
func (s *Service) Listen(ctx context.Context, r api.EffectiveRequest, from Peer) (*Listening, error) {
	a, err := checkEffective(r)
	if err != nil {
		return nil, err
	}
	l := &Listening{s: s, asked: a, hash: r.Hash, least: r.Revision, first: true, open: true}
	l.entry, err = s.listeners.enter(s, a, from)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Peer is where a listener comes from.
type Peer struct{ Addr, Door string }

// freshWithin bounds the wait for a linearizable first look; without a leader a
// listener is told what this node has.
const freshWithin = 2 * time.Second

// look gives a view, and whether it may be older than what the client has.
func (l *Listening) look(ctx context.Context) (v *state.View, old bool, err error) {
	if l.first && !l.asked.Stale {
		short, cancel := context.WithTimeout(ctx, freshWithin)
		v, err := l.s.view(short, false)
		cancel()
		if err == nil || ctx.Err() != nil {
			return v, false, err
		}
	}
	v, err = l.s.view(ctx, true)
	return v, l.first && l.least > 0, err
}

// Next waits until the client gets something that it does not have, by hash, and
// gives all of it. What changes and does not concern the client wakes nobody. It
// may be called again when its context ended.
func (l *Listening) Next(ctx context.Context) (*api.Effective, error) {
	if !l.open {
		return nil, errs.New(errs.Canceled, "the listener is closed")
	}
	for {
		rung := l.s.bell.next()
		v, old, err := l.look(ctx)
		if err != nil {
			return nil, err
		}
		e, err := l.s.effective(v, l.asked, l.hash)
		v.Release()
		if err != nil {
			return nil, err
		}
		l.seen = e.Revision
		behind := old && e.Revision < l.least // this node has yet to catch up with the one before
		l.first = l.first && behind
		l.entry.set(e.Area, l.hash)
		if e.Changed && !behind {
			l.hash = e.Hash
			l.entry.set(e.Area, e.Hash)
			l.s.metrics.wakes.Inc()
			return e, nil
		}
		select {
		case <-rung:
		case <-ctx.Done():
			return nil, errs.From(ctx.Err())
		}
	}
}

// Hash is what the client has.
func (l *Listening) Hash() string { return l.hash }

// Revision is the store revision at the last look.
func (l *Listening) Revision() uint64 { return l.seen }

// Close ends the listening. It is called by the reader.
func (l *Listening) Close() {
	if l.open {
		l.open = false
		l.s.listeners.leave(l.entry, l.s.clock.Now())
	}
}
