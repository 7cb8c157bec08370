package client

import (
	"context"
	"encoding/json"

	"nekoq/services/errs"
	"nekoq/warehouse/areas/api"
)

// The words of areas.
type (
	Area        = api.Area
	AreaChanges = api.UpdateRequest
	AreaUpdate  = api.Update
)

// Areas is the tree of areas.
type Areas struct{ c *Client }

// Areas is the tree of areas, whose root is default.
func (c *Client) Areas() Areas { return Areas{c: c} }

// Create makes an area below parent; an empty parent is the root.
func (a Areas) Create(ctx context.Context, name, parent, description string) (out Area, err error) {
	err = a.c.callJSON(ctx, api.MethodCreate, api.CreateRequest{Name: name, Parent: parent, Description: description}, &out, true)
	return out, err
}

// Get gives an area.
func (a Areas) Get(ctx context.Context, name string) (out Area, err error) {
	err = a.c.callJSON(ctx, api.MethodGet, api.GetRequest{Name: name}, &out, false)
	return out, err
}

// Update moves an area, describes it, or both.
func (a Areas) Update(ctx context.Context, r AreaChanges) (out Area, err error) {
	err = a.c.callJSON(ctx, api.MethodUpdate, r, &out, true)
	return out, err
}

// Delete removes an area that has nothing below it and that nothing uses.
func (a Areas) Delete(ctx context.Context, name string) error {
	return a.c.callJSON(ctx, api.MethodDelete, api.DeleteRequest{Name: name}, nil, true)
}

// DeleteAt is Delete, only while the area is at this revision.
func (a Areas) DeleteAt(ctx context.Context, name string, revision uint64) error {
	return a.c.callJSON(ctx, api.MethodDelete, api.DeleteRequest{Name: name, IfRevision: &revision}, nil, true)
}

// Levels gives the area first, then each parent, the root last.
func (a Areas) Levels(ctx context.Context, name string) ([]string, error) {
	var out api.Levels
	err := a.c.callJSON(ctx, api.MethodLevels, api.GetRequest{Name: name}, &out, false)
	return out.Levels, err
}

// List gives the areas right below parent in the order of their names; an empty
// parent is all areas.
func (a Areas) List(ctx context.Context, parent string) ([]Area, error) {
	all := []Area{}
	for r := (api.ListRequest{Parent: parent}); ; r.After = all[len(all)-1].Name {
		var page api.AreaList
		if err := a.c.callJSON(ctx, api.MethodList, r, &page, false); err != nil {
			return nil, err
		}
		all = append(all, page.Areas...)
		if !page.More || len(page.Areas) == 0 {
			return all, nil
		}
	}
}

// Watch begins a watch of the tree. Its first update is the whole tree; after a
// lost connection it goes on with the changes, or with the whole tree anew when
// there were any meanwhile. ctx bounds the watch's life.
func (a Areas) Watch(ctx context.Context) (*AreaWatch, error) {
	w := &AreaWatch{}
	s, err := a.c.stream(ctx, api.MethodWatch, func() ([]byte, error) {
		return json.Marshal(api.WatchRequest{After: w.after})
	})
	if err != nil {
		return nil, err
	}
	w.s = s
	return w, nil
}

// AreaWatch is read by one goroutine.
type AreaWatch struct {
	s     *stream
	after uint64
}

// Next waits for the next update. When its context ends it may be called again.
func (w *AreaWatch) Next(ctx context.Context) (u AreaUpdate, err error) {
	msg, err := w.s.recv(ctx)
	if err != nil {
		return u, err
	}
	if err := json.Unmarshal(msg, &u); err != nil {
		return u, errs.New(errs.ProtocolViolation, "the server's update cannot be read: %s", err)
	}
	w.after = u.Revision
	return u, nil
}

// Close ends the watch; Next fails afterwards. It may be called by any goroutine.
func (w *AreaWatch) Close() { w.s.close() }
