package client

import (
	"context"
	"iter"
	"time"

	"nekoq/services/errs"
	"nekoq/services/wire"
	"nekoq/warehouse/api"
)

// What warehouse gives. Keys are any bytes; the SDK takes them as strings.
type (
	// KeyValue is a key at one revision.
	KeyValue = api.KV
	// KeyRead is the answer to a read: KV is set when Found.
	KeyRead = api.GetResult
	// KeyWrite is the answer to a put or delete.
	KeyWrite = api.WriteResult
	// KeyList is one page of a list.
	KeyList = api.ListResult
	// KeyHistory is the versions of a key, newest first.
	KeyHistory = api.HistoryResult
	// KeyEvent is one change of a watch.
	KeyEvent = api.Event
	// KeyStoreStatus is the state of the store.
	KeyStoreStatus = api.Status
)

// Kinds of KeyEvent.
const (
	KeyPut     = api.EventPut
	KeyDeleted = api.EventDelete
)

// KV is warehouse: small, consistent data with revisions, history and watches.
func (c *Client) KV() *KV { return (*KV)(c) }

// KV is safe for concurrent use.
type KV Client

func (k *KV) client() *Client { return (*Client)(k) }

// Put writes a key. Options: IfRevision, IfAbsent, WithTTL, WithLease, WhileHeld.
func (k *KV) Put(ctx context.Context, key string, value []byte, opts ...KVOption) (KeyWrite, error) {
	r := api.PutRequest{Key: []byte(key), Value: value}
	var tokens []Token
	for _, o := range opts {
		switch o.kind {
		case optIf:
			r.If = api.If(o.number)
		case optTTL:
			if r.TTL = o.duration; o.duration <= 0 {
				return KeyWrite{}, errs.Invalid("ttl", o.duration, "1s to 9000000000s")
			}
		case optLease:
			r.Lease = o.number
		case optHeld:
			tokens = append(tokens, o.token)
		default:
			return KeyWrite{}, o.misplaced("Put")
		}
	}
	if tokens != nil {
		return k.writtenHeld(ctx, r.Held(uint64(r.TTL.Milliseconds()), tokens...), r.If)
	}
	return k.written(ctx, api.MethodPut, r.Append(make([]byte, 0, 48+len(key)+len(value))))
}

// CompareAndSet writes a key that is at mod revision rev; 0 means that it must not
// exist. Otherwise the error has the code revision_mismatch.
func (k *KV) CompareAndSet(ctx context.Context, key string, rev uint64, value []byte, opts ...KVOption) (KeyWrite, error) {
	return k.Put(ctx, key, value, append(opts[:len(opts):len(opts)], IfRevision(rev))...)
}

// Delete deletes a key; PrevRevision of the answer is 0 when there was none.
// Options: IfRevision, WhileHeld.
func (k *KV) Delete(ctx context.Context, key string, opts ...KVOption) (KeyWrite, error) {
	r := api.DeleteRequest{Key: []byte(key)}
	var tokens []Token
	for _, o := range opts {
		switch o.kind {
		case optIf:
			r.If = api.If(o.number)
		case optHeld:
			tokens = append(tokens, o.token)
		default:
			return KeyWrite{}, o.misplaced("Delete")
		}
	}
	if tokens != nil {
		return k.writtenHeld(ctx, r.Held(tokens...), r.If)
	}
	return k.written(ctx, api.MethodDelete, r.Append(nil))
}

// writtenHeld carries out a write that demands tokens. It is a transaction, since a
// server of an older version would not see tokens beside a put.
func (k *KV) writtenHeld(ctx context.Context, t *api.Txn, c api.Condition) (KeyWrite, error) {
	res, err := (&Txn{k: k, t: *t}).Commit(ctx)
	if err != nil {
		return KeyWrite{}, err
	}
	return res.Written(c)
}

func (k *KV) written(ctx context.Context, m wire.Method, req []byte) (w KeyWrite, err error) {
	b, err := k.client().write(ctx, m, req)
	if err == nil {
		err = w.Decode(b)
	}
	return w, err
}

// Get reads a key; a missing one is an error of the code not_found. Options: Stale,
// AtRevision.
func (k *KV) Get(ctx context.Context, key string, opts ...KVOption) (KeyValue, error) {
	r, err := k.Read(ctx, key, opts...)
	if err != nil {
		return KeyValue{}, err
	}
	if !r.Found {
		return KeyValue{}, errs.New(errs.NotFound, "key: %q does not exist at revision %d", key, r.Revision).
			With(errs.Detail{Field: "key", Value: key})
	}
	return r.KV, nil
}

// Read is Get with all that the answer says: the store's revision, of a stale read
// the lag, and whether the key was found.
func (k *KV) Read(ctx context.Context, key string, opts ...KVOption) (res KeyRead, err error) {
	r := api.GetRequest{Key: []byte(key)}
	for _, o := range opts {
		switch o.kind {
		case optStale:
			r.Stale = true
		case optAt:
			r.Revision = o.number
		default:
			return res, o.misplaced("Get")
		}
	}
	b, err := k.client().read(ctx, api.MethodGet, r.Append(make([]byte, 0, 16+len(key))))
	if err == nil {
		err = res.Decode(b)
	}
	return res, err
}

// List gives a page of the keys with a prefix, in byte order. Options: Stale,
// AtRevision, WithLimit, WithPageToken, KeysOnly, WithCount.
func (k *KV) List(ctx context.Context, prefix string, opts ...KVOption) (KeyList, error) {
	return k.list(ctx, []byte(prefix), api.PrefixEnd([]byte(prefix)), opts)
}

// ListRange gives a page of the keys from start up to but not including end; an
// empty end is no bound.
func (k *KV) ListRange(ctx context.Context, start, end string, opts ...KVOption) (KeyList, error) {
	return k.list(ctx, []byte(start), []byte(end), opts)
}

func (k *KV) list(ctx context.Context, start, end []byte, opts []KVOption) (res KeyList, err error) {
	r := api.ListRequest{Start: start, End: end}
	for _, o := range opts {
		switch o.kind {
		case optStale:
			r.Stale = true
		case optAt:
			r.Revision = o.number
		case optLimit:
			r.Limit = int(o.number)
		case optPage:
			r.PageToken = o.text
		case optKeysOnly:
			r.KeysOnly = true
		case optCount:
			r.Count = true
		default:
			return res, o.misplaced("List")
		}
	}
	b, err := k.client().read(ctx, api.MethodList, r.Append(nil))
	if err == nil {
		err = res.Decode(b)
	}
	return res, err
}

// All goes through all keys with a prefix, page by page, as of one revision. It
// ends after the first error. Options: those of List but WithPageToken.
func (k *KV) All(ctx context.Context, prefix string, opts ...KVOption) iter.Seq2[KeyValue, error] {
	return func(yield func(KeyValue, error) bool) {
		token := ""
		for {
			o := opts[:len(opts):len(opts)]
			if token != "" {
				o = append(o, WithPageToken(token))
			}
			page, err := k.List(ctx, prefix, o...)
			if err != nil {
				yield(KeyValue{}, err)
				return
			}
			for i := range page.Items {
				if !yield(page.Items[i], nil) {
					return
				}
			}
			if token = page.NextPageToken; token == "" {
				return
			}
		}
	}
}

// History gives the versions of a key, newest first, deletions included. Options:
// Stale, WithLimit, BeforeRevision.
func (k *KV) History(ctx context.Context, key string, opts ...KVOption) (res KeyHistory, err error) {
	r := api.HistoryRequest{Key: []byte(key)}
	for _, o := range opts {
		switch o.kind {
		case optStale:
			r.Stale = true
		case optLimit:
			r.Limit = int(o.number)
		case optBefore:
			r.Before = o.number
		default:
			return res, o.misplaced("History")
		}
	}
	b, err := k.client().read(ctx, api.MethodHistory, r.Append(nil))
	if err == nil {
		err = res.Decode(b)
	}
	return res, err
}

// Compact gives up the history before a revision, and gives the compact revision.
func (k *KV) Compact(ctx context.Context, revision uint64) (uint64, error) {
	r := api.CompactRequest{Revision: revision}
	b, err := k.client().write(ctx, api.MethodCompact, r.Append(nil))
	if err == nil {
		err = r.Decode(b)
	}
	return r.Revision, err
}

// Status tells how large the store is. Options: Stale.
func (k *KV) Status(ctx context.Context, opts ...KVOption) (res KeyStoreStatus, err error) {
	var r api.StatusRequest
	for _, o := range opts {
		if o.kind != optStale {
			return res, o.misplaced("Status")
		}
		r.Stale = true
	}
	b, err := k.client().read(ctx, api.MethodStatus, r.Append(nil))
	if err == nil {
		err = res.Decode(b)
	}
	return res, err
}

// Watch begins to watch the keys with a prefix: the changes from now on, or after
// the revision of AfterRevision. It goes on over the loss of a connection or
// server, in order, without gaps or repeats. ctx bounds the watch's life. Options:
// AfterRevision, WithPrev.
func (k *KV) Watch(ctx context.Context, prefix string, opts ...KVOption) (*KeyWatch, error) {
	return k.watch(ctx, api.WatchRequest{Start: []byte(prefix), End: api.PrefixEnd([]byte(prefix))}, opts)
}

// WatchKey is Watch of one key.
func (k *KV) WatchKey(ctx context.Context, key string, opts ...KVOption) (*KeyWatch, error) {
	return k.watch(ctx, api.WatchRequest{Start: []byte(key), Exact: true}, opts)
}

func (k *KV) watch(ctx context.Context, req api.WatchRequest, opts []KVOption) (*KeyWatch, error) {
	req.Now = true
	for _, o := range opts {
		switch o.kind {
		case optAfter:
			req.Now, req.After = false, o.number
		case optPrev:
			req.Prev = true
		default:
			return nil, o.misplaced("Watch")
		}
	}
	w := &KeyWatch{req: req}
	s, err := k.client().stream(ctx, api.MethodWatch, func() ([]byte, error) { return w.req.Append(nil), nil })
	if err != nil {
		return nil, err
	}
	w.s = s
	// The first answer tells where the watch stands: whoever has a watch misses
	// nothing that happens after.
	if err := w.begin(ctx, k.client().cfg.Timeout); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// begin waits for the first answer, for no longer than limit.
func (w *KeyWatch) begin(ctx context.Context, limit time.Duration) error {
	first, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := w.step(first)
	if err != nil && first.Err() != nil && ctx.Err() == nil {
		return w.s.unanswered(limit)
	}
	return err
}

// KeyWatch is read by one goroutine.
type KeyWatch struct {
	s   *stream
	req api.WatchRequest // After is kept at the last revision that was seen whole
}

// Next waits for the next changes: whole revisions, in order. When its context ends
// it may be called again. An error of the code compacted means that the history up
// to where the watch stands is gone: read the keys anew.
func (w *KeyWatch) Next(ctx context.Context) ([]KeyEvent, error) {
	for {
		evs, err := w.step(ctx)
		if err != nil || len(evs) > 0 {
			return evs, err
		}
	}
}

// step takes one message, which may be a mere report of progress.
func (w *KeyWatch) step(ctx context.Context) ([]KeyEvent, error) {
	msg, err := w.s.recv(ctx)
	if err != nil {
		return nil, err
	}
	var b api.WatchBatch
	if err := b.Decode(msg); err != nil {
		return nil, err
	}
	if !w.req.Now && b.Revision <= w.req.After {
		return nil, nil // where a stream that was opened anew begins
	}
	w.req.Now, w.req.After = false, b.Revision
	return b.Events, nil
}

// Revision is the key revision up to which the watch has told everything: another
// watch after it goes on where this one stands.
func (w *KeyWatch) Revision() uint64 { return w.req.After }

// Close ends the watch; Next fails afterwards. It may be called by any goroutine.
func (w *KeyWatch) Close() { w.s.close() }

// KVOption changes one request. An option that does not fit the request is refused.
type KVOption struct {
	kind     optKind
	number   uint64
	duration time.Duration
	text     string
	token    Token
}

type optKind uint8

const (
	optIf optKind = iota + 1
	optTTL
	optLease
	optStale
	optAt
	optLimit
	optPage
	optKeysOnly
	optCount
	optBefore
	optAfter
	optPrev
	optHeld
)

var optNames = [...]string{"", "IfRevision", "WithTTL", "WithLease", "Stale", "AtRevision", "WithLimit", "WithPageToken", "KeysOnly", "WithCount", "BeforeRevision", "AfterRevision", "WithPrev", "WhileHeld"}

func (o KVOption) misplaced(op string) error {
	return errs.New(errs.InvalidArgument, "the option %s does not go with %s", optNames[o.kind], op).
		With(errs.Detail{Field: optNames[o.kind]})
}

// IfRevision demands that the key is at this mod revision; 0: that it does not exist.
func IfRevision(rev uint64) KVOption { return KVOption{kind: optIf, number: rev} }

// IfAbsent demands that the key does not exist.
func IfAbsent() KVOption { return IfRevision(0) }

// WithTTL deletes the key after d, at least 1 s, unless it is put again.
func WithTTL(d time.Duration) KVOption { return KVOption{kind: optTTL, duration: d} }

// WithLease hangs the key on a lease.
func WithLease(id uint64) KVOption { return KVOption{kind: optLease, number: id} }

// Stale reads from the server at hand without asking the leader.
func Stale() KVOption { return KVOption{kind: optStale} }

// AtRevision reads as of a key revision.
func AtRevision(rev uint64) KVOption { return KVOption{kind: optAt, number: rev} }

// WithLimit bounds a page.
func WithLimit(n int) KVOption { return KVOption{kind: optLimit, number: uint64(n)} }

// WithPageToken goes on after a page.
func WithPageToken(token string) KVOption { return KVOption{kind: optPage, text: token} }

// KeysOnly leaves the values out.
func KeysOnly() KVOption { return KVOption{kind: optKeysOnly} }

// WithCount also counts the whole range.
func WithCount() KVOption { return KVOption{kind: optCount} }

// BeforeRevision gives only versions older than rev.
func BeforeRevision(rev uint64) KVOption { return KVOption{kind: optBefore, number: rev} }

// AfterRevision begins a watch with the changes after rev.
func AfterRevision(rev uint64) KVOption { return KVOption{kind: optAfter, number: rev} }

// WithPrev adds to each change the version before it.
func WithPrev() KVOption { return KVOption{kind: optPrev} }

// WhileHeld demands that a lock or election is still held under its token, such as
// lock.Proof(); when it is not, nothing is done and the error has the code stale_token.
func WhileHeld(t Token) KVOption { return KVOption{kind: optHeld, token: t} }
