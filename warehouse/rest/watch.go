package rest

import (
	"context"
	"slices"

	"github.com/gin-gonic/gin"

	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

func (d *door) watch(c *gin.Context) {
	p := params{c: c}
	r := api.WatchRequest{Prev: p.bool("prev")}
	if key, ok := p.get("key"); ok {
		r.Exact, r.Start = true, p.text("key", key)
		for _, other := range []string{"prefix", "start", "end"} {
			if v, too := p.get(other); too {
				p.fail(other, v, "key, or prefix, or start and end")
			}
		}
	} else {
		r.Start, r.End = p.keys()
	}
	if p.err != nil {
		httpapi.Fail(c, p.err)
		return
	}
	if httpapi.WantsStream(c) {
		d.stream(c, &r)
		return
	}
	d.poll(c, &r)
}

// poll answers with the changes that there are, or waits for the first.
func (d *door) poll(c *gin.Context, r *api.WatchRequest) {
	wait, err := httpapi.WaitOf(c)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	r.After, r.Now = wait.Revision, !wait.HasRevision
	w, err := d.svc.Watch(c.Request.Context(), r)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	defer w.Close()
	var batch api.WatchBatch
	if wait.For == 0 {
		batch, err = w.Past(c.Request.Context())
	} else {
		_, err = httpapi.LongPoll(c.Request.Context(), wait.For, func(ctx context.Context) (err error) {
			batch, err = w.NextEvents(ctx)
			return err
		})
	}
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	b := takeBuffer()
	b.uint("revision", w.From())
	b.array("events", len(batch.Events), func(i int) { b.event(&batch.Events[i]) })
	b.send(c)
}

// stream sends events as they come. Only the last event of a revision carries its
// id, so a client that was cut off within a revision gets it whole again.
func (d *door) stream(c *gin.Context, r *api.WatchRequest) {
	if v, ok := c.GetQuery("wait"); ok {
		httpapi.Fail(c, errs.Invalid("wait", v, "no wait together with Accept: text/event-stream"))
		return
	}
	after, ok, err := httpapi.ResumeFrom(c)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	r.After, r.Now = after, !ok
	w, err := d.svc.Watch(c.Request.Context(), r)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	defer w.Close()
	s := &sse{w: w}
	httpapi.Stream(c, s.next)
}

// sse turns batches into server-sent events. Their bytes stand in one buffer.
type sse struct {
	w     *warehouse.Watcher
	begun bool
	buf   buffer
	out   []httpapi.Event
}

func (s *sse) next(ctx context.Context) ([]httpapi.Event, error) {
	if !s.begun {
		s.begun = true
		return s.encode(&api.WatchBatch{Revision: s.w.From()}), nil
	}
	b, err := s.w.Next(ctx)
	if err != nil {
		return nil, err
	}
	return s.encode(&b), nil
}

func (s *sse) encode(batch *api.WatchBatch) []httpapi.Event {
	s.out = s.out[:0]
	if cap(s.buf.b) > 256<<10 {
		s.buf.b = nil
	}
	s.buf.b = s.buf.b[:0]
	var ends []int
	for i := range batch.Events {
		s.buf.b = append(s.buf.b, '{')
		s.buf.event(&batch.Events[i])
		s.buf.b = append(s.buf.b, '}')
		ends = append(ends, len(s.buf.b))
	}
	from := 0
	for i := range batch.Events {
		e := &batch.Events[i]
		out := httpapi.Event{Type: kindName(e.Kind), Data: s.buf.b[from:ends[i]]}
		if i+1 == len(batch.Events) || batch.Events[i+1].KV.ModRevision != e.KV.ModRevision {
			out.ID = e.KV.ModRevision
		}
		from = ends[i]
		s.out = append(s.out, out)
	}
	if len(batch.Events) == 0 {
		s.buf.b = append(s.buf.b, '{')
		s.buf.uint("revision", batch.Revision)
		s.buf.b = append(s.buf.b, '}')
		s.out = append(s.out, httpapi.Event{ID: batch.Revision, Type: "progress", Data: slices.Clone(s.buf.b)})
	}
	return s.out
}

func kindName(k api.EventKind) string {
	if k == api.EventDelete {
		return "delete"
	}
	return "put"
}

func (b *buffer) event(e *api.Event) {
	b.text("type", kindName(e.Kind))
	b.kv(&e.KV, true)
	if e.PrevRevision != 0 {
		b.uint("prev_revision", e.PrevRevision)
	}
	if e.Prev != nil {
		b.name("prev")
		b.b = append(b.b, '{')
		b.kv(e.Prev, true)
		b.b = append(b.b, '}')
	}
}
