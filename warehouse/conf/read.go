package conf

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"

	udiff "github.com/aymanbagabas/go-udiff"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/warehouse/areas"
	areasapi "nekoq/warehouse/areas/api"
	"nekoq/warehouse/conf/api"
	"nekoq/warehouse/conf/internal/table"
)

func proposed[T any](res replica.Result, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	v, err := table.Decode[T](res.Data)
	return &v, damaged(err)
}

// GroupDelete forgets what belongs to a group as a whole; its items stay.
func (s *Service) GroupDelete(ctx context.Context, r api.NameRequest) (*api.Done, error) {
	return s.deleteNamed(ctx, table.KindGroupDelete, r.Name)
}

func (s *Service) deleteNamed(ctx context.Context, kind command.Kind, name string) (*api.Done, error) {
	if err := api.CheckGroup("name", name); err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, kind, []byte(name))
	return &api.Done{Revision: res.Revision}, err
}

// ScopeDelete takes a scope away.
func (s *Service) ScopeDelete(ctx context.Context, r api.NameRequest) (*api.Done, error) {
	return s.deleteNamed(ctx, table.KindScopeDelete, r.Name)
}

// seen answers from a view.
func seen[Out any](ctx context.Context, s *Service, stale bool, from func(v *state.View) (*Out, error)) (*Out, error) {
	v, err := s.view(ctx, stale)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	return from(v)
}

// seenItem answers from a view about an item, which may be a deleted one.
func seenItem[Out any](ctx context.Context, s *Service, a api.Address, stale bool, from func(v *state.View, row *table.Row) (*Out, error)) (*Out, error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	return seen(ctx, s, stale, func(v *state.View) (*Out, error) {
		row, ok, err := table.GetRow(v, a)
		if err != nil {
			return nil, damaged(err)
		}
		if !ok {
			return nil, table.NotFound(a)
		}
		return from(v, &row)
	})
}

// Groups lists the groups that have settings.
func (s *Service) Groups(ctx context.Context, r api.ListRequest) (*api.GroupList, error) {
	return seen(ctx, s, r.Stale, func(v *state.View) (*api.GroupList, error) {
		return &api.GroupList{Groups: append([]api.Group{}, indexOf(v).Groups()...)}, nil
	})
}

// Scopes lists the scopes in the order in which they are asked.
func (s *Service) Scopes(ctx context.Context, r api.ListRequest) (*api.ScopeList, error) {
	return seen(ctx, s, r.Stale, func(v *state.View) (*api.ScopeList, error) {
		return &api.ScopeList{Scopes: append([]api.Scope{}, indexOf(v).Scopes()...)}, nil
	})
}

// Item gives an item with one of its contents. An item that has no release yet is
// given without one when none was asked for by name.
func (s *Service) Item(ctx context.Context, r api.ItemRequest) (*api.ItemContent, error) {
	return seenItem(ctx, s, r.Address, r.Stale, func(v *state.View, row *table.Row) (*api.ItemContent, error) {
		if row.Deleted && r.Which == "" {
			return nil, table.NotFound(r.Address)
		}
		out := &api.ItemContent{Item: row.Item, Which: r.Which}
		if r.Which == "" {
			if row.Release == nil {
				return out, nil
			}
			out.Which = "release"
		}
		c, b, err := contentOf(v, row, "which", out.Which)
		if err != nil {
			return nil, err
		}
		out.Type, out.Bytes = c.Type, bytes.Clone(b)
		return out, nil
	})
}

// contentOf reads the content that which, given as field, names.
func contentOf(v *state.View, row *table.Row, field, which string) (c api.Content, b []byte, err error) {
	missing := errs.New(errs.NotFound, "%s: the item %s has no %s", field, row.Path(), which).With(errs.Detail{Field: field, Value: which})
	var key []byte
	name, isGray := strings.CutPrefix(which, "gray:")
	if isGray {
		missing.Message = field + ": the item " + row.Path() + " has no gray release " + strconv.Quote(name)
	}
	switch {
	case which == "release" && row.Release != nil:
		c, key = row.Release.Content, table.ReleaseKey(row.ID, row.Release.Number)
	case which == "draft" && row.Draft != nil:
		c, key = row.Draft.Content, table.SlotKey(row.ID, table.SlotDraft)
	case which == "scheduled" && row.Scheduled != nil:
		c, key = row.Scheduled.Content, table.SlotKey(row.ID, table.SlotScheduled)
	case which == "schema" && row.Schema != nil:
		c, key = *row.Schema, table.SlotKey(row.ID, table.SlotSchema)
	case isGray:
		for i := range row.Gray {
			if row.Gray[i].Name == name {
				c, key = row.Gray[i].Content, table.GrayKey(row.ID, name)
			}
		}
	default:
		if n, err := strconv.ParseUint(which, 10, 64); err == nil {
			return releaseOf(v, row, field, n)
		}
		if which != "release" && which != "draft" && which != "scheduled" && which != "schema" {
			return c, nil, errs.Invalid(field, which, "release, draft, scheduled, schema, gray:NAME, or the number of a release")
		}
	}
	if key == nil {
		return c, nil, missing
	}
	b, err = contentAt(v, key)
	return c, b, err
}

// contentAt reads bytes that must be there; the slice is the state's.
func contentAt(v *state.View, key []byte) ([]byte, error) {
	b, ok := table.Content(v, key)
	if !ok {
		return nil, damaged(errors.New("conf: a content is missing"))
	}
	return b, nil
}

// maxPage bounds a list page for callers that name no limit, or too great a one.
const maxPage = 1000

func pageSize(limit int) int {
	if limit < 1 || limit > maxPage {
		return maxPage
	}
	return limit
}

// prefixOf is where the keys begin that a filter wants.
func prefixOf(area, group, key string) (string, error) {
	switch {
	case area == "" && (group != "" || key != ""):
		return "", errs.Invalid("area", "", "an area, since a group or prefix is named")
	case group == "" && key != "":
		return "", errs.Invalid("group", "", "a group, since a prefix is named")
	case area == "":
		return "", nil
	}
	if err := areasapi.CheckName("area", area); err != nil {
		return "", err
	}
	if group == "" {
		return area + "\x00", nil
	}
	if err := api.CheckGroup("group", group); err != nil {
		return "", err
	}
	if key != "" && key != "." && key != ".." { // those begin keys, and are none
		if err := api.CheckKey("prefix", key); err != nil {
			return "", err
		}
	}
	return string(table.ItemKey(api.Address{Area: area, Group: group, Key: key})), nil
}

// knownArea refuses a filter by an area that is not there; "" is no filter.
func knownArea(v *state.View, area string) error {
	if area == "" {
		return nil
	}
	if _, ok := areas.TreeOf(v).Get(area); !ok {
		return errs.New(errs.NotFound, "area: there is no area named %q", area).With(errs.Detail{Field: "area", Value: area})
	}
	return nil
}

// Items lists items in the order of area, group and key.
func (s *Service) Items(ctx context.Context, r api.ItemsRequest) (*api.ItemList, error) {
	prefix, err := prefixOf(r.Area, r.Group, r.Prefix)
	if err != nil {
		return nil, err
	}
	limit := pageSize(r.Limit)
	v, err := s.view(ctx, r.Stale)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	if err := knownArea(v, r.Area); err != nil {
		return nil, err
	}
	out := &api.ItemList{Items: []api.Item{}}
	from := prefix
	if r.After.Key != "" {
		from = max(from, string(table.ItemKey(r.After))+"\x00")
	}
	indexOf(v).Ascend(from, func(k string, row *table.Row) bool {
		if !strings.HasPrefix(k, prefix) {
			return false
		}
		if row.Deleted && !r.Deleted {
			return true
		}
		if out.More = len(out.Items) == limit; out.More {
			return false
		}
		out.Items = append(out.Items, row.Item)
		return true
	})
	return out, nil
}

// History lists the releases of an item, newest first, those of a deleted item too.
func (s *Service) History(ctx context.Context, r api.HistoryRequest) (*api.HistoryList, error) {
	limit := pageSize(r.Limit)
	return seenItem(ctx, s, r.Address, r.Stale, func(v *state.View, row *table.Row) (*api.HistoryList, error) {
		out := &api.HistoryList{Releases: []api.Release{}}
		err := table.Releases(v, row.ID, r.Before, func(rel api.Release) bool {
			if out.More = len(out.Releases) == limit; out.More {
				return false
			}
			out.Releases = append(out.Releases, rel)
			return true
		})
		return out, damaged(err)
	})
}

// Diff compares two contents of an item.
func (s *Service) Diff(ctx context.Context, r api.DiffRequest) (*api.Diff, error) {
	return seenItem(ctx, s, r.Address, r.Stale, func(v *state.View, row *table.Row) (*api.Diff, error) {
		from, fromBytes, err := contentOf(v, row, "from", r.From)
		if err != nil {
			return nil, err
		}
		to, toBytes, err := contentOf(v, row, "to", r.To)
		if err != nil {
			return nil, err
		}
		path := r.Path()
		return &api.Diff{
			From: r.From, To: r.To, Equal: from.Hash == to.Hash,
			Unified: unified(path+"@"+r.From, path+"@"+r.To, from.Type, to.Type, fromBytes, toBytes),
		}, nil
	})
}

// maxDiff is the most bytes of both sides of which a difference is worked out, which
// takes time that grows faster than they do.
const maxDiff = 2 << 20

func unified(from, to, fromType, toType string, a, b []byte) string {
	head := ""
	if fromType != toType {
		head = "content type " + fromType + " -> " + toType + "\n"
	}
	if bytes.Equal(a, b) {
		return head
	}
	if len(a)+len(b) > maxDiff {
		return head + "--- " + from + "\n+++ " + to + "\nThe contents differ and are too large to show how.\n"
	}
	return head + udiff.Unified(from, to, string(a), string(b))
}
