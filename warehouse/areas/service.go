// Package areas is the tree of areas: named places that services group things by,
// each below another, the root being default.
//
// It owns the rules of the tree, the list of levels from an area up to the root,
// and the watch over it. The tree stands in memory on every node, as part of each
// read view, so a question costs no read of the tables.
//
// A Service is safe for concurrent use; a Watcher is read by one goroutine. It
// asks no authorizer: doors do, before they call. Doors (rest, native), other
// parts of warehouse and the composition import it.
package areas

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"unicode/utf8"

	"nekoq/services/auth"
	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/services/watch"
	"nekoq/warehouse/areas/api"
	"nekoq/warehouse/areas/internal/table"
)

// Tree is the whole tree at one revision: immutable, and cheap to have.
type Tree = table.Tree

// Register declares the tables and commands of areas. What it returns is for other
// services of every node, when they register.
func Register(reg *state.Registry) *Registered { return &Registered{users: table.Register(reg)} }

// Registered is how the appliers of other services see areas.
type Registered struct{ users *table.Users }

// AddUser keeps areas from being deleted while uses says that something stands in
// them. name is what the refusal calls it, such as "config items".
func (r *Registered) AddUser(name string, uses func(r state.Reader, area string) bool) {
	r.users.Add(name, uses)
}

// Exists tells an applier whether there is such an area.
func (r *Registered) Exists(s state.Reader, area string) bool { return table.Exists(s, area) }

// TreeOf gives the tree as a view sees it.
func TreeOf(v *state.View) *Tree { return v.Frozen(table.IndexName).(*Tree) }

// Deps are what a Service is wired to.
type Deps struct {
	Replica replica.Replica
	Events  watch.Source
	Logger  *slog.Logger // nil discards
}

// Service is the areas of one node.
type Service struct {
	replica  replica.Replica
	events   watch.Source
	log      *slog.Logger
	cfg      Config
	watchers atomic.Int64
}

// New makes the service.
func New(d Deps, cfg Config) (*Service, error) {
	if bad := cfg.Validate(); len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	s := &Service{replica: d.Replica, events: d.Events, log: d.Logger, cfg: cfg}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Tree gives the whole tree. A stale one is this node's own, at once.
func (s *Service) Tree(ctx context.Context, stale bool) (*Tree, error) {
	c := replica.Linearizable
	if stale {
		c = replica.Stale
	}
	v, _, err := s.replica.View(ctx, c)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	return TreeOf(v), nil
}

// Create makes an area. An area of that name is already_exists.
func (s *Service) Create(ctx context.Context, r api.CreateRequest) (*api.Area, error) {
	if err := api.CheckName("name", r.Name); err != nil {
		return nil, err
	}
	if r.Parent == "" {
		r.Parent = api.Root
	}
	if err := api.CheckName("parent", r.Parent); err != nil {
		return nil, err
	}
	if err := checkDescription(r.Description); err != nil {
		return nil, err
	}
	t, err := s.Tree(ctx, true)
	if err != nil {
		return nil, err
	}
	if _, known := t.Get(r.Name); !known && t.Len() >= s.cfg.MaxAreas {
		return nil, errs.New(errs.Exhausted, "there are %d areas, and areas.max_areas = %d", t.Len(), s.cfg.MaxAreas).
			With(errs.Detail{Field: "areas.max_areas", Limit: strconv.Itoa(s.cfg.MaxAreas)})
	}
	return s.propose(ctx, table.KindCreate, r)
}

// Update moves an area or changes its description. What changes nothing is no
// error and moves no revision.
func (s *Service) Update(ctx context.Context, r api.UpdateRequest) (*api.Area, error) {
	if err := api.CheckName("name", r.Name); err != nil {
		return nil, err
	}
	if r.Parent == nil && r.Description == nil {
		return nil, errs.New(errs.InvalidArgument, "parent, description: nothing to change was named").
			With(errs.Detail{Field: "parent", Help: "name parent, description, or both"})
	}
	if r.Parent != nil && !(r.Name == api.Root && *r.Parent == "") {
		if err := api.CheckName("parent", *r.Parent); err != nil {
			return nil, err
		}
	}
	if r.Description != nil {
		if err := checkDescription(*r.Description); err != nil {
			return nil, err
		}
	}
	return s.propose(ctx, table.KindUpdate, r)
}

// Delete removes an area that has no areas below it and is used by nothing.
func (s *Service) Delete(ctx context.Context, r api.DeleteRequest) (*api.Deleted, error) {
	if err := api.CheckName("name", r.Name); err != nil {
		return nil, err
	}
	a, err := s.propose(ctx, table.KindDelete, r)
	if err != nil {
		return nil, err
	}
	return &api.Deleted{Revision: a.Revision}, nil
}

func (s *Service) propose(ctx context.Context, kind command.Kind, payload any) (*api.Area, error) {
	actor := auth.FromContext(ctx).Actor()
	res, err := s.replica.Propose(ctx, command.Command{
		Kind: kind, RequestID: command.RequestIDFrom(ctx), Actor: actor[:min(len(actor), command.MaxActorBytes)], Payload: table.Encode(payload),
	})
	if err != nil {
		return nil, err
	}
	a, err := table.DecodeArea(res.Data)
	if err != nil {
		return nil, errs.New(errs.Internal, "internal error").Wrap(err)
	}
	return &a, nil
}

func checkDescription(d string) error {
	if len(d) > api.MaxDescription || !utf8.ValidString(d) {
		return errs.Invalid("description", d, "up to 256 bytes of UTF-8")
	}
	return nil
}

// Get gives an area.
func (s *Service) Get(ctx context.Context, r api.GetRequest) (*api.Area, error) {
	if err := api.CheckName("name", r.Name); err != nil {
		return nil, err
	}
	t, err := s.Tree(ctx, r.Stale)
	if err != nil {
		return nil, err
	}
	a, ok := t.Get(r.Name)
	if !ok {
		return nil, table.NotFound("name", r.Name)
	}
	return &a, nil
}

// Levels gives the area first, then each parent, the root last.
func (s *Service) Levels(ctx context.Context, r api.GetRequest) (*api.Levels, error) {
	if err := api.CheckName("name", r.Name); err != nil {
		return nil, err
	}
	t, err := s.Tree(ctx, r.Stale)
	if err != nil {
		return nil, err
	}
	l := t.Levels(r.Name)
	if l == nil {
		return nil, table.NotFound("name", r.Name)
	}
	return &api.Levels{Levels: l, Revision: t.Revision()}, nil
}

// maxPage bounds a list page for callers that name no limit, or too great a one.
const maxPage = 1000

// List gives areas in the order of their names.
func (s *Service) List(ctx context.Context, r api.ListRequest) (*api.AreaList, error) {
	if r.Parent != "" {
		if err := api.CheckName("parent", r.Parent); err != nil {
			return nil, err
		}
	}
	limit := r.Limit
	if limit < 1 || limit > maxPage {
		limit = maxPage
	}
	t, err := s.Tree(ctx, r.Stale)
	if err != nil {
		return nil, err
	}
	out := &api.AreaList{Areas: []api.Area{}, Revision: t.Revision()}
	add := func(a api.Area) bool {
		if out.More = len(out.Areas) == limit; out.More {
			return false
		}
		out.Areas = append(out.Areas, a)
		return true
	}
	from := ""
	if r.After != "" {
		from = r.After + "\x00"
	}
	if r.Parent == "" {
		t.Ascend(from, add)
		return out, nil
	}
	if _, ok := t.Get(r.Parent); !ok {
		return nil, table.NotFound("parent", r.Parent)
	}
	t.Children(r.Parent, from, add)
	return out, nil
}
