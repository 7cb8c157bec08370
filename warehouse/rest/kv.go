package rest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
	"nekoq/warehouse/form"
)

func (d *door) put(c *gin.Context) {
	p := params{c: c}
	r := api.PutRequest{Key: p.key(), TTL: p.ttl()}
	r.If = p.condition()
	if lease, ok := p.uint("lease"); ok {
		if r.Lease = lease; lease == 0 {
			p.fail("lease", "0", "the id of a lease")
		}
	}
	if p.err != nil {
		httpapi.Fail(c, p.err)
		return
	}
	value, err := readBody(c.Request)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	defer value.free()
	r.Value = value.b
	res, err := d.write(c, &p, &r)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	httpapi.SetETag(c.Request.Context(), strconv.FormatUint(res.Revision, 10))
	b := takeBuffer()
	b.text("key", string(r.Key))
	b.uint("revision", res.Revision)
	b.uint("create_revision", res.CreateRevision)
	b.uint("mod_revision", res.Revision)
	b.uint("version", res.Version)
	b.uint("prev_revision", res.PrevRevision)
	b.lease(res.Lease)
	b.uint("store_revision", res.StoreRevision)
	b.send(c)
}

// write puts a key, if asked for only while a lock or election is held.
func (d *door) write(c *gin.Context, p *params, r *api.PutRequest) (api.WriteResult, error) {
	t, held, err := d.token(c, p)
	switch {
	case err != nil:
		return api.WriteResult{}, err
	case held:
		return d.svc.PutHolding(c.Request.Context(), r, t)
	}
	return d.svc.Put(c.Request.Context(), r)
}

// token reads the lock or election that must be held, and asks whether the caller may
// see it.
func (d *door) token(c *gin.Context, p *params) (t api.Token, given bool, err error) {
	lock, _ := p.get("if_lock")
	election, _ := p.get("if_election")
	token, has := p.uint("token")
	switch {
	case p.err != nil:
		return t, false, p.err
	case lock == "" && election == "" && !has:
		return t, false, nil
	case lock == "" && election == "":
		return t, false, errs.Invalid("token", token, "a token together with the if_lock or if_election that gave it")
	case lock != "" && election != "":
		return t, false, errs.Invalid("if_election", election, "if_lock or if_election, not both")
	}
	h := form.Held{Lock: lock, Election: election, Number: token}
	if t, err = h.Token("if_lock"); err != nil {
		return t, false, err
	}
	return t, true, d.srv.Allow(c.Request.Context(), auth.Read, warehouse.TokenResource(&t))
}

// readBody reads the value. The caller frees it once the write is through, which keeps
// a copy of its own.
func readBody(r *http.Request) (*buffer, error) {
	v := buffers.Get().(*buffer)
	v.b = v.b[:0]
	if r.Body == nil || r.ContentLength == 0 {
		return v, nil
	}
	if r.ContentLength > 0 && r.ContentLength <= 32<<20 {
		v.b = slices.Grow(v.b, int(r.ContentLength)+1) // one more, to meet the end
	}
	for {
		if len(v.b) == cap(v.b) {
			v.b = slices.Grow(v.b, 512)
		}
		n, err := r.Body.Read(v.b[len(v.b):cap(v.b)])
		switch v.b = v.b[:len(v.b)+n]; {
		case err == nil:
		case errors.Is(err, io.EOF):
			return v, nil
		case errs.From(err).Code != errs.Internal:
			return nil, errs.From(err)
		default:
			return nil, errs.New(errs.InvalidArgument, "body: it ended before its announced length").Wrap(err)
		}
	}
}

func (d *door) delete(c *gin.Context) {
	p := params{c: c}
	r := api.DeleteRequest{Key: p.key()}
	r.If = p.condition()
	t, held, err := d.token(c, &p)
	var res api.WriteResult
	switch {
	case err != nil:
	case held:
		res, err = d.svc.DeleteHolding(c.Request.Context(), &r, t)
	default:
		res, err = d.svc.Delete(c.Request.Context(), &r)
	}
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	b := takeBuffer()
	b.text("key", string(r.Key))
	b.bool("deleted", res.PrevRevision != 0)
	b.uint("revision", res.Revision)
	b.uint("prev_revision", res.PrevRevision)
	b.uint("store_revision", res.StoreRevision)
	b.send(c)
}

// deleteRange deletes the keys with a prefix or of a range. It must be named: an empty
// one, which a script may send by mistake, would be all keys.
func (d *door) deleteRange(c *gin.Context) {
	p := params{c: c}
	start, end := p.keys()
	switch {
	case len(start) == 0:
		p.fail("prefix", "", "a prefix, or start, of at least 1 byte; start=%00 is all keys")
	case len(end) > 0 && bytes.Compare(start, end) >= 0:
		p.fail("end", string(end), "a key after start")
	}
	for _, name := range []string{"If-Match", "If-None-Match"} { // they are of one key
		if v := c.GetHeader(name); v != "" {
			p.fail(name, v, "none in a delete of many keys")
		}
	}
	t, held, err := d.token(c, &p)
	op := api.DeleteOp{Span: api.Span{Key: start, End: end}}
	if len(end) == 0 {
		op.Span = api.FromKey(start)
	}
	var res api.DeleteResult
	switch {
	case err != nil:
	case held:
		res, err = d.svc.DeleteRangeHolding(c.Request.Context(), &op, t)
	default:
		res, err = d.svc.DeleteRange(c.Request.Context(), &op)
	}
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	b := takeBuffer()
	b.uint("deleted", res.Deleted)
	b.uint("revision", res.Revision)
	b.uint("store_revision", res.StoreRevision)
	b.send(c)
}

func (d *door) get(c *gin.Context) {
	p := params{c: c}
	r := api.GetRequest{Key: p.key(), Stale: p.stale()}
	raw := p.bool("raw")
	rev, has := p.uint("revision")
	if p.err != nil {
		httpapi.Fail(c, p.err)
		return
	}
	if _, wait := p.get("wait"); wait {
		d.waitKey(c, &r, raw)
		return
	}
	if has && rev == 0 {
		httpapi.Fail(c, errs.Invalid("revision", 0, "1 or more"))
		return
	}
	r.Revision = rev
	d.answerKey(c, &r, raw, nil)
}

// answerKey reads and answers in one go: the value goes from the state into the
// answer.
func (d *door) answerKey(c *gin.Context, r *api.GetRequest, raw bool, changed *bool) {
	var b *buffer
	var found, known bool
	var mismatch error
	err := d.svc.Read(c.Request.Context(), r, func(res *api.GetResult) {
		if found = res.Found; found {
			known, mismatch = httpapi.NotModified(c.Request.Context(), strconv.FormatUint(res.KV.ModRevision, 10))
		}
		h := c.Writer.Header()
		headers(h, &res.Header)
		if changed != nil {
			h["Nekoq-Changed"] = []string{strconv.FormatBool(*changed)}
		}
		switch {
		case !found:
			r.Revision = res.Revision
		case known || mismatch != nil:
		case raw:
			kvHeaders(h, &res.KV)
			b = takeBuffer()
			b.b = append(b.b[:0], res.KV.Value...)
		default:
			b = takeBuffer()
			b.kv(&res.KV, true)
			b.uint("revision", res.Revision)
			if changed != nil {
				b.bool("changed", *changed)
			}
			b.lag(&res.Header)
		}
	})
	switch {
	case err != nil:
		httpapi.Fail(c, err)
	case !found:
		httpapi.Fail(c, errs.New(errs.NotFound, "key: %q does not exist at revision %d", r.Key, r.Revision).
			With(errs.Detail{Field: "key", Value: string(r.Key)}))
	case mismatch != nil:
		httpapi.Fail(c, mismatch)
	case known:
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
	case raw:
		b.sendRaw(c)
	default:
		b.send(c)
	}
}

// waitKey is a get that waits for a change.
func (d *door) waitKey(c *gin.Context, r *api.GetRequest, raw bool) {
	w, err := httpapi.WaitOf(c)
	if err == nil && r.Stale {
		err = errs.Invalid("consistency", "stale", "linearizable together with wait")
	}
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	k, err := d.svc.WatchKey(c.Request.Context(), r.Key, w.Revision, !w.HasRevision)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	defer k.Close()
	changed := k.Changed
	if !changed && w.For > 0 {
		timedOut, err := httpapi.LongPoll(c.Request.Context(), w.For, k.Wait)
		if err != nil {
			httpapi.Fail(c, err)
			return
		}
		changed = !timedOut
	}
	d.answerKey(c, r, raw, &changed)
}

func (d *door) list(c *gin.Context) {
	p := params{c: c}
	r := api.ListRequest{Stale: p.stale(), KeysOnly: p.bool("keys_only"), Count: p.bool("count"), Limit: p.limit(d.svc.Limits().MaxListLimit)}
	r.Start, r.End = p.keys()
	rev, has := p.uint("revision")
	if has && rev == 0 {
		p.fail("revision", "0", "1 or more")
	}
	r.Revision = rev
	token, has := p.get("page_token")
	if r.PageToken = token; has && token == "" {
		p.fail("page_token", "", "the next_page_token of the page before, or none at all")
	}
	if p.err != nil {
		httpapi.Fail(c, p.err)
		return
	}
	res, err := d.svc.List(c.Request.Context(), &r)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	headers(c.Writer.Header(), &res.Header)
	b := takeBuffer()
	b.array("items", len(res.Items), func(i int) { b.kv(&res.Items[i], !r.KeysOnly) })
	b.uint("revision", res.Revision)
	if res.Counted {
		b.uint("count", res.Count)
	}
	b.text("next_page_token", res.NextPageToken)
	b.lag(&res.Header)
	b.send(c)
}

func (d *door) history(c *gin.Context) {
	p := params{c: c}
	r := api.HistoryRequest{Key: p.key(), Stale: p.stale(), Limit: p.limit(d.svc.Limits().MaxListLimit)}
	r.Before, _ = p.uint("before")
	if p.err != nil {
		httpapi.Fail(c, p.err)
		return
	}
	res, err := d.svc.History(c.Request.Context(), &r)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	headers(c.Writer.Header(), &res.Header)
	b := takeBuffer()
	b.array("versions", len(res.Items), func(i int) { b.kv(&res.Items[i], true) })
	b.bool("more", res.More)
	b.uint("revision", res.Revision)
	b.uint("compact_revision", res.CompactRevision)
	b.lag(&res.Header)
	b.send(c)
}

// headers tells the revision, and of a stale answer the lag, for answers of any
// form.
func headers(h http.Header, a *api.Header) {
	h["Nekoq-Revision"] = []string{strconv.FormatUint(a.Revision, 10)}
	if a.Stale {
		h["Nekoq-Lag-Entries"] = []string{strconv.FormatUint(a.LagEntries, 10)}
		h["Nekoq-Lag-Age"] = []string{a.LagAge.String()}
		h["Nekoq-Leader-Known"] = []string{strconv.FormatBool(a.LagKnown)}
	}
}

func kvHeaders(h http.Header, kv *api.KV) {
	h["Nekoq-Mod-Revision"] = []string{strconv.FormatUint(kv.ModRevision, 10)}
	h["Nekoq-Create-Revision"] = []string{strconv.FormatUint(kv.CreateRevision, 10)}
	h["Nekoq-Version"] = []string{strconv.FormatUint(kv.Version, 10)}
	if kv.Lease != 0 {
		h["Nekoq-Lease"] = []string{strconv.FormatUint(kv.Lease, 10)}
	}
}

var buffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, 1024)} }}
