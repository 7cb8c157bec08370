package rest

import (
	"context"
	"strconv"

	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

// folder watches a folder. As a stream: an event of type list with the existing keys,
// then created, modified and deleted. As a poll: without revision the existing keys;
// with it, what changed after, waiting for it if asked to.
func (d *door) folder(c *gin.Context) {
	path := httpapi.Param(c, "path")
	if httpapi.WantsStream(c) {
		after, _, err := httpapi.ResumeFrom(c)
		if err != nil {
			httpapi.Fail(c, err)
			return
		}
		f, err := d.svc.WatchFolder(c.Request.Context(), path, after)
		if err != nil {
			httpapi.Fail(c, err)
			return
		}
		defer f.Close()
		httpapi.Stream(c, func(ctx context.Context) ([]httpapi.Event, error) { return folderEvents(ctx, f) })
		return
	}
	wait, err := httpapi.WaitOf(c)
	if err == nil && wait.HasRevision && wait.Revision == 0 {
		err = errs.Invalid("revision", 0, "1 or more, or none for the existing keys")
	}
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	f, err := d.svc.WatchFolder(c.Request.Context(), path, wait.Revision)
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	defer f.Close()
	var step warehouse.FolderStep
	switch {
	case !wait.HasRevision:
		step, err = f.Next(c.Request.Context())
	case wait.For == 0:
		step, err = f.Past(c.Request.Context())
		step.Revision = f.Revision()
	default:
		_, err = httpapi.LongPoll(c.Request.Context(), wait.For, func(ctx context.Context) (err error) {
			for {
				if step, err = f.Next(ctx); err != nil || len(step.Changes) > 0 {
					return err
				}
			}
		})
		step.Revision = f.Revision()
	}
	if err != nil {
		httpapi.Fail(c, err)
		return
	}
	b := takeBuffer()
	b.step(&step)
	b.send(c)
}

func (b *buffer) step(step *warehouse.FolderStep) {
	b.uint("revision", step.Revision)
	if step.First {
		b.array("existing", len(step.Existing), func(i int) { b.kv(&step.Existing[i], true) })
		return
	}
	b.array("events", len(step.Changes), func(i int) {
		b.text("type", string(step.Changes[i].Kind))
		b.kv(&step.Changes[i].KV, true)
	})
}

func folderEvents(ctx context.Context, f *warehouse.Folder) ([]httpapi.Event, error) {
	step, err := f.Next(ctx)
	if err != nil {
		return nil, err
	}
	encode := func(fill func(b *buffer)) []byte {
		b := &buffer{b: []byte{'{'}}
		fill(b)
		return append(b.b, '}')
	}
	if step.First {
		return []httpapi.Event{{ID: step.Revision, Type: "list", Data: encode(func(b *buffer) { b.step(&step) })}}, nil
	}
	var out []httpapi.Event
	for i := range step.Changes {
		ch := &step.Changes[i]
		e := httpapi.Event{Type: string(ch.Kind), Data: encode(func(b *buffer) { b.kv(&ch.KV, true) })}
		if i+1 == len(step.Changes) || step.Changes[i+1].KV.ModRevision != ch.KV.ModRevision {
			e.ID = ch.KV.ModRevision
		}
		out = append(out, e)
	}
	if out == nil {
		out = []httpapi.Event{{ID: step.Revision, Type: "progress", Data: []byte(`{"revision":` + strconv.FormatUint(step.Revision, 10) + `}`)}}
	}
	return out, nil
}

// folderOf names the folder for the authorizer.
func (d *door) folderOf(c *gin.Context) auth.Resource {
	path := []byte(httpapi.Param(c, "path"))
	return warehouse.RangeResource(path, api.PrefixEnd(path))
}
