package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"nekoq/services/auth"
	"nekoq/services/errs"
	"nekoq/services/httpapi"
	"nekoq/warehouse/conf"
	"nekoq/warehouse/conf/api"
)

// valueBody is one effective value.
type valueBody struct {
	Key      string     `json:"key" doc:"Key."`
	Type     string     `json:"content_type" doc:"Content type."`
	Content  string     `json:"content" doc:"The content, references resolved."`
	Hash     string     `json:"hash" doc:"Hash of type and content."`
	Revision uint64     `json:"revision" doc:"Store revision of the release."`
	Origin   api.Origin `json:"origin" doc:"Where it comes from."`
	Problems []string   `json:"problems,omitempty" doc:"References that could not be resolved; they stand as they are."`
}

// effectiveBody is what a client gets.
type effectiveBody struct {
	Area     string      `json:"area" doc:"Area: the one asked for, or that of the scope."`
	Group    string      `json:"group" doc:"Group."`
	Hash     string      `json:"hash" doc:"The version: it changes exactly when a value does."`
	Revision uint64      `json:"revision" doc:"Store revision of the last change of items, groups, scopes or areas, whether it concerned this client or not."`
	Changed  bool        `json:"changed" doc:"False when the client has this version; there are no values then."`
	Values   []valueBody `json:"values,omitempty" doc:"Values in the order of their keys."`
}

func effectiveOf(e *api.Effective) effectiveBody {
	out := effectiveBody{Area: e.Area, Group: e.Group, Hash: e.Hash, Revision: e.Revision, Changed: e.Changed}
	for i := range e.Values {
		v := &e.Values[i]
		out.Values = append(out.Values, valueBody{v.Key, v.Type, string(v.Bytes), v.Hash, v.Revision, v.Origin, v.Problems})
	}
	return out
}

// clients adds the routes that programs use, and the list of who listens.
func (d *door) clients(s *httpapi.Server) {
	text := func(name, doc string) *huma.Param {
		return &huma.Param{Name: name, In: "query", Description: doc, Schema: &huma.Schema{Type: "string"}}
	}
	params := func(key bool) []*huma.Param {
		p := []*huma.Param{
			{Name: "group", In: "path", Description: "Group.", Schema: &huma.Schema{Type: "string"}},
			text("area", "Area; without it that of the first scope that fits the client, else default."),
			text("client", "What the client calls itself; gray releases by percentage go by it."),
			text("ip", "The client's address, where it is not that of the connection."),
			text("labels", "The client's labels: a=1,b=2."),
			text("hash", "The version that the client has: values come only when they differ."),
			text("wait", "Long poll: wait up to this long for another version than hash, such as 30s; at most http.max_wait."),
			{Name: "stale", In: "query", Description: "Answer at once from this node's own state.", Schema: &huma.Schema{Type: "boolean"}},
		}
		if key {
			p = append(p, &huma.Param{Name: "key", In: "path", Description: "Key.", Schema: &huma.Schema{Type: "string"}})
		}
		return p
	}
	const how = "Values come from the area and those above it, from the group, those that it quotes and the group global, with gray releases and references resolved. " +
		"Keys that begin with _ are not among them. With hash and wait it is a long poll; with Accept: text/event-stream, a stream of changes, " +
		"whose event ids resume it on any node when they come back as Last-Event-ID."
	access := httpapi.OnFunc(auth.Read, func(c *gin.Context) auth.Resource {
		return conf.Resource(c.Query("area"), httpapi.Param(c, "group"), httpapi.Param(c, "key"))
	})
	for _, key := range []bool{false, true} {
		o := op("effective", http.MethodGet, base+"/effective/{group}", "Get what a client gets of a group", how)
		if key {
			o = op("effective-key", http.MethodGet, base+"/effective/{group}/{key}", "Get what a client gets of a key", how+" A key that is not there is not_found, unless a version or a wait is named.")
		}
		o.Parameters = params(key)
		o.Responses = map[string]*huma.Response{"200": httpapi.JSON[effectiveBody](s, "What the client gets")}
		httpapi.ReadTags(&o)
		httpapi.Raw(s, o, access, d.effective)
	}
	httpapi.Register(s, op("listeners", http.MethodGet, base+"/listeners", "List who listens",
		"At all nodes, with the version that each has. What other nodes tell is as old as config.report_interval."), filtered(auth.Read), d.listeners)
}

func (d *door) request(c *gin.Context) (r api.EffectiveRequest, peer conf.Peer, err error) {
	peer = conf.PeerOf(auth.FromContext(c.Request.Context()))
	r = api.EffectiveRequest{
		Area: c.Query("area"), Group: httpapi.Param(c, "group"), Key: httpapi.Param(c, "key"), Client: c.Query("client"),
		IP: c.Query("ip"), Hash: c.Query("hash"),
	}
	if r.IP == "" {
		r.IP = peer.Addr
	}
	if v := c.Query("labels"); v != "" {
		r.Labels = map[string]string{}
		for pair := range strings.SplitSeq(v, ",") {
			name, value, ok := strings.Cut(pair, "=")
			if _, twice := r.Labels[name]; !ok || twice {
				return r, peer, errs.Invalid("labels", v, "pairs such as a=1,b=2, each name once")
			}
			r.Labels[name] = value
		}
	}
	if v := c.Query("stale"); v != "" {
		stale, err := strconv.ParseBool(v) // as the other routes read it
		if err != nil {
			return r, peer, errs.Invalid("stale", v, "true or false")
		}
		r.Stale = stale
	}
	return r, peer, nil
}

func (d *door) effective(c *gin.Context) {
	if err := d.answerEffective(c); err != nil {
		httpapi.Fail(c, err)
	}
}

func (d *door) answerEffective(c *gin.Context) error {
	r, peer, err := d.request(c)
	if err != nil {
		return err
	}
	wait, err := httpapi.WaitOf(c)
	if err != nil {
		return err
	}
	if httpapi.WantsStream(c) {
		return d.stream(c, r, peer)
	}
	version, err := httpapi.KnownVersion(c.Request.Context(), wait.For > 0)
	switch {
	case err != nil:
		return err
	case version != "" && r.Hash != "" && version != r.Hash:
		return errs.Invalid("If-None-Match", version, "the version that hash names, or one of the two alone")
	case version != "":
		r.Hash = version
	}
	var e *api.Effective
	if wait.For == 0 {
		if e, err = d.svc.Effective(c.Request.Context(), r); err != nil {
			return err
		}
	} else {
		l, err := d.svc.Listen(c.Request.Context(), r, peer)
		if err != nil {
			return err
		}
		defer l.Close()
		timedOut, err := httpapi.LongPoll(c.Request.Context(), wait.For, func(ctx context.Context) (err error) {
			e, err = l.Next(ctx)
			return err
		})
		if err != nil {
			return err
		}
		if timedOut {
			e = &api.Effective{Area: r.Area, Group: r.Group, Hash: l.Hash(), Revision: l.Revision()}
		}
	}
	if r.Key != "" && r.Hash == "" && wait.For == 0 && len(e.Values) == 0 {
		return errs.New(errs.NotFound, "key: %s/%s has no key %q that clients see", e.Area, r.Group, r.Key).With(errs.Detail{Field: "key", Value: r.Key})
	}
	if e.Changed || version != "" {
		known, err := httpapi.NotModified(c.Request.Context(), e.Hash)
		if err != nil {
			return err
		}
		if known {
			c.Status(http.StatusNotModified)
			c.Writer.WriteHeaderNow()
			return nil
		}
	}
	c.JSON(http.StatusOK, effectiveOf(e))
	return nil
}

// markOf is the id of an event: the version that the reader then has, and its
// revision.
func markOf(e *api.Effective) string {
	return strconv.FormatUint(e.Revision, 10) + "." + e.Hash
}

// resume reads it back from Last-Event-ID, which goes before ?hash=.
func resume(c *gin.Context, r *api.EffectiveRequest) error {
	v := c.GetHeader("Last-Event-ID")
	if v == "" {
		return nil
	}
	revision, hash, ok := strings.Cut(v, ".")
	n, err := strconv.ParseUint(revision, 10, 64)
	if !ok || err != nil || hash == "" {
		return errs.Invalid("Last-Event-ID", v, "the id of an event of this stream, REVISION.HASH")
	}
	r.Revision, r.Hash = n, hash
	return nil
}

// stream sends every version as one event.
func (d *door) stream(c *gin.Context, r api.EffectiveRequest, peer conf.Peer) error {
	if v, ok := c.GetQuery("wait"); ok {
		return errs.Invalid("wait", v, "no wait together with Accept: text/event-stream")
	}
	if err := resume(c, &r); err != nil {
		return err
	}
	l, err := d.svc.Listen(c.Request.Context(), r, peer)
	if err != nil {
		return err
	}
	defer l.Close()
	httpapi.Stream(c, func(ctx context.Context) ([]httpapi.Event, error) {
		e, err := l.Next(ctx)
		if err != nil {
			return nil, err
		}
		b, err := json.Marshal(effectiveOf(e))
		if err != nil {
			return nil, err
		}
		return []httpapi.Event{{Mark: markOf(e), Type: "config", Data: b}}, nil
	})
	return nil
}

type listenersInput struct {
	Area  string `query:"area" doc:"Only this area."`
	Group string `query:"group" doc:"Only this group."`
	Key   string `query:"key" doc:"Only this key."`
}

func (d *door) listeners(ctx context.Context, in *listenersInput) (*output[api.ListenerList], error) {
	return answer(d.svc.Listeners(ctx, api.ListenersRequest{Area: in.Area, Group: in.Group, Key: in.Key}))
}
