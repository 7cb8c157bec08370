// Package rest is warehouse under /v1/warehouse: keys with raw bodies, lists,
// history, watches by long poll and by server-sent events, compaction.
//
// Keys stand in the path, percent-decoded, slashes and all; they must be UTF-8
// here, since JSON cannot show other bytes (the native door takes any). The routes
// ask the authorizer through httpapi. Only the composition imports it.
package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/httpapi"
	"nekoq/warehouse"
	"nekoq/warehouse/api"
)

type door struct {
	srv *httpapi.Server
	svc *warehouse.Service
}

const tag = "warehouse"

// Register adds the routes to s.
func Register(s *httpapi.Server, svc *warehouse.Service) {
	d := &door{srv: s, svc: svc}
	key := func(a auth.Action) httpapi.Access { return httpapi.OnParam(a, "warehouse", "kv", "key") }
	d.oneKey(key)
	httpapi.Raw(s, op("warehouse-delete-range", http.MethodDelete, "/v1/warehouse/kv", "Delete keys",
		"Those with a prefix, or from start up to but not including end, as one revision. One of the two must be named.",
		heldParams("Delete", rangeParams()...)...,
	).Operation, httpapi.OnFunc(auth.Delete, d.rangeOf), d.deleteRange)

	httpapi.Raw(s, op("warehouse-list", http.MethodGet, "/v1/warehouse/kv", "List keys",
		"A page of the keys with a prefix, or from start up to but not including end, in byte order. All pages show the revision of the first.",
		rangeParams(
			query("revision", "integer", "List as of this revision."), consistencyParam(),
			query("keys_only", "boolean", "Leave the values out."),
			query("count", "boolean", "Also count the whole range."),
			query("limit", "integer", "Most keys in the page; the default is warehouse.default_list_limit, the largest warehouse.max_list_limit."),
			query("page_token", "string", "The next_page_token of the page before, for the same query."),
		)...).Operation, httpapi.OnFunc(auth.Read, d.rangeOf), d.list)

	httpapi.Raw(s, op("warehouse-watch", http.MethodGet, "/v1/warehouse/watch", "Watch keys",
		"The changes after revision. With Accept: text/event-stream a stream of put, delete and progress events, whose ids are revisions to resume from "+
			"(Last-Event-ID); else a long poll that answers with the changes and the revision for the next call.",
		rangeParams(
			query("key", "string", "Watch this key alone."),
			query("revision", "integer", "The changes after this revision; without it, from now on."),
			query("wait", "string", "Long poll: wait up to this long for a change; without it, answer at once."),
			query("prev", "boolean", "With each change, the version before it."),
		)...).Operation, httpapi.OnFunc(auth.Watch, d.rangeOf), d.watch)

	httpapi.Raw(s, op("warehouse-history", http.MethodGet, "/v1/warehouse/history/{key...}", "History of a key",
		"The versions of a key, newest first, deletions included: who, when, at which revision.", keyParam(), consistencyParam(),
		query("before", "integer", "Only versions older than this revision: the last mod_revision of the page before."),
		query("limit", "integer", "Most versions; the default is warehouse.default_list_limit."),
	).Operation, key(auth.Read), d.history)

	httpapi.Register(s, huma.Operation{
		OperationID: "warehouse-compact", Method: http.MethodPost, Path: "/v1/warehouse/compact", Tags: []string{tag},
		Summary: "Give up old history", Description: "Reads and watches before the revision are refused from now on; the space is freed in the background.",
	}, allKeys(auth.Admin), d.compact)

	httpapi.Register(s, huma.Operation{
		OperationID: "warehouse-status", Method: http.MethodGet, Path: "/v1/warehouse/status", Tags: []string{tag},
		Summary: "State of the store",
	}, allKeys(auth.Read), d.status)

	httpapi.Raw(s, op("warehouse-folder", http.MethodGet, "/v1/warehouse/folders/{path...}", "Watch a folder",
		"The path ends with a slash. With Accept: text/event-stream a stream: an event of type list with the keys that exist, then created, modified and "+
			"deleted, whose ids are revisions to resume from. Else the existing keys, or with revision what changed after it, waiting up to wait.",
		&huma.Param{Name: "path", In: "path", Required: true, Description: "The folder: the rest of the path, with its slash at the end.", Schema: &huma.Schema{Type: "string"}},
		query("revision", "integer", "The changes after this revision; without it, the keys that exist."),
		query("wait", "string", "Long poll: wait up to this long for a change; without it, answer at once."),
	).Operation, httpapi.OnFunc(auth.Watch, d.folderOf), d.folder)
	d.more()
}

// oneKey adds the routes of one key.
func (d *door) oneKey(key func(auth.Action) httpapi.Access) {
	put := op("warehouse-put", http.MethodPut, "/v1/warehouse/kv/{key...}", "Put a key",
		"The body is the value, byte for byte.", heldParams("Write", keyParam(),
			query("if_revision", "integer", "Write only if the key is at this mod revision; 0 means that it must not exist."),
			query("ttl", "string", "Delete the key after this time, such as 30s; at least 1s. A put without it makes the key permanent."),
			query("lease", "string", "Hang the key on this lease: it is deleted with it. Not with ttl."))...,
	).body()
	httpapi.WriteTags(&put)
	httpapi.Raw(d.srv, put, key(auth.Write), d.put, httpapi.MaxBody(d.svc.Limits().MaxValueBytes))

	get := op("warehouse-get", http.MethodGet, "/v1/warehouse/kv/{key...}", "Get a key",
		"JSON with the value in base64, or with raw=true the bytes with the revisions in headers. With wait it is a long poll: it answers when "+
			"the key has changed after revision, or at the end of the wait.", keyParam(),
		query("raw", "boolean", "Answer with the bytes of the value."), consistencyParam(),
		query("revision", "integer", "Read at this revision; with wait, the revision that the caller has seen."),
		query("wait", "string", "Wait up to this long, such as 30s, for a change after revision (without one: from now on)."),
	).Operation
	httpapi.ReadTags(&get)
	httpapi.Raw(d.srv, get, key(auth.Read), d.get)

	del := op("warehouse-delete", http.MethodDelete, "/v1/warehouse/kv/{key...}", "Delete a key",
		"Deleting a key that does not exist is no error and changes nothing.", heldParams("Delete", keyParam(),
			query("if_revision", "integer", "Delete only if the key is at this mod revision."))...,
	).Operation
	httpapi.WriteTags(&del)
	httpapi.Raw(d.srv, del, key(auth.Delete), d.delete)
}

// allKeys asks for the whole of the keys.
func allKeys(a auth.Action) httpapi.Access {
	return httpapi.OnFunc(a, func(*gin.Context) auth.Resource { return warehouse.RangeResource(nil, nil) })
}

type operation struct{ huma.Operation }

func op(id, method, path, summary, description string, params ...*huma.Param) operation {
	return operation{huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Description: description,
		Tags: []string{tag}, Parameters: params,
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"application/json": {}}}},
	}}
}

// body adds a raw request body.
func (o operation) body() huma.Operation {
	o.RequestBody = &huma.RequestBody{
		Description: "The value.", Required: false,
		Content: map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}}},
	}
	return o.Operation
}

func keyParam() *huma.Param {
	return &huma.Param{Name: "key", In: "path", Required: true, Description: "The key: the rest of the path.", Schema: &huma.Schema{Type: "string"}}
}

func query(name, kind, doc string) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: doc, Schema: &huma.Schema{Type: kind}}
}

func consistencyParam() *huma.Param {
	p := query("consistency", "string", "linearizable (the default) sees every write acknowledged before the request; stale is answered by this node at once, with its lag.")
	p.Schema.Enum = []any{"linearizable", "stale"}
	return p
}

// heldParams adds the lock or election that must be held.
func heldParams(verb string, params ...*huma.Param) []*huma.Param {
	return append(params,
		query("if_lock", "string", verb+" only while this lock is held under token."),
		query("if_election", "string", verb+" only while this election is led under token."),
		query("token", "integer", "The fencing token of if_lock or if_election; a lost one is stale_token."))
}

func rangeParams(more ...*huma.Param) []*huma.Param {
	return append([]*huma.Param{
		query("prefix", "string", "The keys that begin with this."),
		query("start", "string", "The keys from this one on. Not with prefix."),
		query("end", "string", "Up to but not including this key; without it, to the last one. Not with prefix."),
	}, more...)
}

// rangeOf names the keys of a list or watch for the authorizer. What cannot be read
// is refused by the handler, so here it is the widest range.
func (d *door) rangeOf(c *gin.Context) auth.Resource {
	q := params{c: c}
	if key, ok := q.get("key"); ok {
		return warehouse.RangeResource([]byte(key), []byte(key+"\x00"))
	}
	start, end := q.keys()
	if q.err != nil {
		return warehouse.RangeResource(nil, nil)
	}
	return warehouse.RangeResource(start, end)
}

type compactIn struct {
	Body struct {
		Revision uint64 `json:"revision" minimum:"1" doc:"The first revision that stays readable."`
	}
}

type compactOut struct {
	Body struct {
		CompactRevision uint64 `json:"compact_revision" doc:"Reads below it are refused."`
	}
}

func (d *door) compact(ctx context.Context, in *compactIn) (*compactOut, error) {
	rev, err := d.svc.Compact(ctx, in.Body.Revision)
	if err != nil {
		return nil, err
	}
	out := &compactOut{}
	out.Body.CompactRevision = rev
	return out, nil
}

type statusIn struct {
	Consistency string `query:"consistency" enum:"linearizable,stale" doc:"stale is answered by this node at once."`
}

type statusOut struct {
	Body struct {
		Revision        uint64 `json:"revision" doc:"Key revision."`
		StoreRevision   uint64 `json:"store_revision" doc:"Revision of the whole store, all services."`
		CompactRevision uint64 `json:"compact_revision" doc:"Reads below it are refused; 0 when never compacted."`
		Keys            uint64 `json:"keys"`
		Bytes           uint64 `json:"bytes" doc:"Bytes of keys and latest values."`
		Stale           *Lag   `json:"stale,omitempty"`
	}
}

// Lag says how far behind a stale answer may be.
type Lag struct {
	Entries     uint64 `json:"lag_entries" doc:"Log entries that this node knows of and has not applied."`
	Age         string `json:"lag_age" doc:"Time since the leader was last heard of."`
	LeaderKnown bool   `json:"leader_known" doc:"False when no leader has been heard of since the start."`
}

func lagOf(h *api.Header) *Lag {
	if !h.Stale {
		return nil
	}
	return &Lag{Entries: h.LagEntries, Age: h.LagAge.String(), LeaderKnown: h.LagKnown}
}

func (d *door) status(ctx context.Context, in *statusIn) (*statusOut, error) {
	st, err := d.svc.Status(ctx, in.Consistency == "stale")
	if err != nil {
		return nil, err
	}
	out := &statusOut{}
	out.Body.Revision, out.Body.StoreRevision, out.Body.CompactRevision = st.Revision, st.StoreRevision, st.CompactRevision
	out.Body.Keys, out.Body.Bytes, out.Body.Stale = st.Keys, st.Bytes, lagOf(&st.Header)
	return out, nil
}
