package client

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"nekoq/services/errs"
	"nekoq/warehouse/conf/api"
)

// ConfSubscription says what to listen to. Only Group is needed.
type ConfSubscription struct {
	Group string
	// Key listens to one key; empty is all of the group.
	Key string
	// Area empty is that of the first scope that fits this client, else default.
	Area string
	// Client is what this program calls itself, for gray releases and for the list
	// of listeners. Default: the client's name and the host's. It should be another
	// for each instance and stay the same over restarts.
	Client string
	// Labels of this instance, which gray releases and scopes can pick by.
	Labels map[string]string
	// CacheFile keeps the newest version on this machine. It is used when no server
	// answers at the start. Empty keeps none. That it cannot be written is told to the
	// client's Logger.
	CacheFile string
	// Wait is how long Subscribe waits for a server before it takes the cache file.
	// Default: the client's Timeout.
	Wait time.Duration
	// OnChange is called with every version after the one that Subscribe returned
	// with, one at a time. old is the version before it.
	OnChange func(old, now *ConfSet)
}

// ConfListener holds the newest version. Safe for concurrent use.
type ConfListener struct {
	c      *Client
	sub    ConfSubscription
	cur    atomic.Pointer[ConfSet]
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	first  chan error // of the first answer or failure

	mu    sync.Mutex
	bound []func(*ConfSet)
	err   error
}

// Subscribe listens to a group. It returns when the first version is there: that of
// a server or, when none answers in time, that of the cache file; without one it
// fails. From then on it keeps up with the servers by itself, for as long as ctx
// and the client live.
func (c Conf) Subscribe(ctx context.Context, sub ConfSubscription) (*ConfListener, error) {
	if err := api.CheckGroup("Group", sub.Group); err != nil {
		return nil, err
	}
	sub.Client = cmp.Or(sub.Client, c.c.cfg.instance())
	sub.Wait = cmp.Or(sub.Wait, c.c.cfg.Timeout)
	l := &ConfListener{c: c.c, sub: sub, done: make(chan struct{}), first: make(chan error, 1)}
	l.ctx, l.cancel = context.WithCancel(ctx)
	if !c.c.spawn(func() { defer close(l.done); l.run() }) {
		l.cancel()
		return nil, errClosed
	}
	err := l.await()
	if err == nil {
		return l, nil
	}
	// A refusal is a refusal; a file does not answer for a server that says no.
	if !tryElsewhere(errs.CodeOf(err)) && !errs.Has(err, errs.DeadlineExceeded) {
		l.Close()
		return nil, err
	}
	cached, cerr := l.load()
	if cerr != nil {
		l.Close()
		return nil, cerr
	}
	if cached == nil {
		l.Close()
		return nil, err
	}
	if l.cur.CompareAndSwap(nil, cached) {
		l.noteWhile(cached, err)
		c.c.cfg.Logger.Warn("no server answers: using the configuration from the cache file", "file", sub.CacheFile, "error", err)
	}
	return l, nil
}

func (l *ConfListener) await() error {
	timer := time.NewTimer(l.sub.Wait)
	defer timer.Stop()
	select {
	case err := <-l.first:
		return err
	case <-timer.C:
		var f failures
		l.c.pool.addDown(&f)
		return errs.New(errs.DeadlineExceeded, "no server gave the configuration of %s within %s%s", l.sub.Group, l.sub.Wait, f.told(": "))
	case <-l.ctx.Done():
		return errs.From(l.ctx.Err())
	}
}

// Current gives the newest version.
func (l *ConfListener) Current() *ConfSet { return l.cur.Load() }

// Err tells why the newest version may be old: the last failure to keep up, nil
// when all is well.
func (l *ConfListener) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close ends the listening and waits for a callback that is running. It is not
// called from one.
func (l *ConfListener) Close() {
	l.cancel()
	<-l.done
}

// note sets what Err tells.
func (l *ConfListener) note(err error) {
	l.mu.Lock()
	l.err = err
	l.mu.Unlock()
}

// noteWhile is note for as long as s is the newest version.
func (l *ConfListener) noteWhile(s *ConfSet, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur.Load() == s {
		l.err = err
	}
}

func (l *ConfListener) fail(err error) {
	l.note(err)
	select {
	case l.first <- err:
	default:
	}
}

// run keeps the stream open.
func (l *ConfListener) run() {
	stop := context.AfterFunc(l.c.ctx, l.cancel)
	defer stop()
	pause := l.c.cfg.BackoffMin
	for l.ctx.Err() == nil {
		err := l.follow(func() { pause = l.c.cfg.BackoffMin })
		if l.ctx.Err() != nil {
			break
		}
		l.fail(err)
		l.c.cfg.Logger.Debug("the configuration cannot be kept up with; trying again", "group", l.sub.Group, "error", err)
		timer := time.NewTimer(jitter(pause))
		select {
		case <-timer.C:
		case <-l.ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, l.c.cfg.BackoffMax)
	}
}

func (l *ConfListener) request() ([]byte, error) {
	r := api.EffectiveRequest{Area: l.sub.Area, Group: l.sub.Group, Key: l.sub.Key, Client: l.sub.Client, Labels: l.sub.Labels}
	if s := l.cur.Load(); s != nil {
		r.Revision = s.Revision
		if !s.Cached { // one of the file is asked for anew, so that a server confirms it
			r.Hash = s.Hash
		}
	}
	return json.Marshal(r)
}

// follow takes versions until the stream ends. A version that comes in parts counts
// when it is whole.
func (l *ConfListener) follow(well func()) error {
	s, err := l.c.stream(l.ctx, api.MethodListen, l.request)
	if err != nil {
		return err
	}
	defer s.close()
	s.told = func(err error) {
		// A server that has nothing newer than what is in hand says nothing; one that
		// has taken the stream is enough.
		if cur := l.cur.Load(); err != nil || cur != nil && !cur.Cached {
			l.note(err)
		}
	}
	s.told(nil)
	var whole api.Effective
	for {
		msg, err := s.recv(l.ctx)
		if err != nil {
			return err
		}
		var part api.Effective
		if err := json.Unmarshal(msg, &part); err != nil {
			return errs.New(errs.ProtocolViolation, "the server's answer cannot be read: %s", err)
		}
		if part.Part <= 1 {
			whole = part
		} else {
			whole.Values = append(whole.Values, part.Values...)
		}
		if part.Part < part.Parts || whole.Hash != part.Hash {
			continue
		}
		well()
		l.take(newConfSet(&whole))
		whole = api.Effective{}
	}
}

// take makes a version the newest.
func (l *ConfListener) take(now *ConfSet) {
	if err := l.save(now); err != nil {
		l.c.cfg.Logger.Warn("the cache file of the configuration cannot be written", "file", l.sub.CacheFile, "error", err)
	}
	old := l.cur.Swap(now)
	l.mu.Lock()
	l.err = nil
	bound := l.bound
	l.mu.Unlock()
	for _, f := range bound {
		f(now)
	}
	if old == nil {
		select {
		case l.first <- nil:
		default:
		}
		return
	}
	if l.sub.OnChange != nil && old.Hash != now.Hash {
		l.sub.OnChange(old, now)
	}
}

// cacheFile is the content of a cache file.
type cacheFile struct {
	Format    int           `json:"format"` // 1
	Area      string        `json:"area"`   // as asked for
	Key       string        `json:"key,omitempty"`
	Saved     time.Time     `json:"saved"`
	Effective api.Effective `json:"effective"`
}

// save writes the file whole or not at all: beside it first, synced, then renamed.
func (l *ConfListener) save(s *ConfSet) (err error) {
	if l.sub.CacheFile == "" {
		return nil
	}
	f := cacheFile{Format: 1, Area: l.sub.Area, Key: l.sub.Key, Saved: time.Now().UTC(), Effective: api.Effective{Area: s.Area, Group: s.Group, Hash: s.Hash, Revision: s.Revision}}
	for _, k := range s.keys {
		f.Effective.Values = append(f.Effective.Values, api.Value(s.values[k]))
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	dir := filepath.Dir(l.sub.CacheFile)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, filepath.Base(l.sub.CacheFile)+".*.new") // only its owner may read it
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), l.sub.CacheFile)
	}
	return err
}

// load reads the cache file, nil when there is none.
func (l *ConfListener) load() (*ConfSet, error) {
	if l.sub.CacheFile == "" {
		return nil, nil
	}
	b, err := os.ReadFile(l.sub.CacheFile)
	if os.IsNotExist(err) {
		return nil, nil
	}
	bad := func(why string) error {
		return errs.New(errs.Corrupt, "no server answers, and the cache file %s cannot be used: %s", l.sub.CacheFile, why)
	}
	if err != nil {
		return nil, bad(err.Error())
	}
	var f cacheFile
	if err := json.Unmarshal(b, &f); err != nil || f.Format != 1 {
		return nil, bad("it is damaged")
	}
	if f.Area != l.sub.Area || f.Effective.Group != l.sub.Group || f.Key != l.sub.Key {
		return nil, bad("it holds the configuration of another group, key or area")
	}
	s := newConfSet(&f.Effective)
	s.Cached = true
	return s, nil
}

// ConfBound is one key as a value of type T, kept up to date.
type ConfBound[T any] struct {
	cur      atomic.Pointer[T]
	err      atomic.Pointer[error]
	onChange func(*T)
}

// BindConf keeps a key as a value of type T. A content that does not fit T leaves
// the last value that did; Err tells. onChange, which may be nil, is called with
// every value after the first.
func BindConf[T any](l *ConfListener, key string, onChange func(*T)) (*ConfBound[T], error) {
	b := &ConfBound[T]{onChange: onChange}
	set := func(s *ConfSet) error {
		v := new(T)
		if err := s.Decode(key, v); err != nil {
			b.err.Store(&err)
			return err
		}
		b.err.Store(nil)
		old := b.cur.Swap(v)
		if old != nil && b.onChange != nil && !reflect.DeepEqual(old, v) {
			b.onChange(v)
		}
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := set(l.cur.Load()); err != nil {
		return nil, err
	}
	l.bound = append(l.bound[:len(l.bound):len(l.bound)], func(s *ConfSet) { _ = set(s) })
	return b, nil
}

// Load gives the newest value. It is shared: do not change it.
func (b *ConfBound[T]) Load() *T { return b.cur.Load() }

// Err tells why the newest content is not the value: nil when it is.
func (b *ConfBound[T]) Err() error {
	if p := b.err.Load(); p != nil {
		return *p
	}
	return nil
}
