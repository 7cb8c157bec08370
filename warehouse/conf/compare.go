package conf

import (
	"context"

	"nekoq/services/errs"
	"nekoq/services/state"
	areasapi "nekoq/warehouse/areas/api"
	"nekoq/warehouse/conf/api"
)

// Compare compares two groups key by key.
func (s *Service) Compare(ctx context.Context, r api.CompareRequest) (*api.Comparison, error) {
	for _, c := range []struct{ field, area, groupField, group string }{
		{"left_area", r.LeftArea, "left_group", r.LeftGroup}, {"right_area", r.RightArea, "right_group", r.RightGroup},
	} {
		if err := areasapi.CheckName(c.field, c.area); err != nil {
			return nil, err
		}
		if err := api.CheckGroup(c.groupField, c.group); err != nil {
			return nil, err
		}
	}
	v, err := s.view(ctx, r.Stale)
	if err != nil {
		return nil, err
	}
	defer v.Release()
	left, err := s.side(v, r.LeftArea, r.LeftGroup, r.Effective)
	if err != nil {
		return nil, err
	}
	right, err := s.side(v, r.RightArea, r.RightGroup, r.Effective)
	if err != nil {
		return nil, err
	}
	out := &api.Comparison{Same: true, Keys: []api.Compared{}}
	for len(left) > 0 || len(right) > 0 {
		switch {
		case len(right) == 0 || len(left) > 0 && left[0].Key < right[0].Key:
			out.Keys = append(out.Keys, api.Compared{Key: left[0].Key, Status: "left", LeftHash: left[0].Hash})
			left = left[1:]
		case len(left) == 0 || right[0].Key < left[0].Key:
			out.Keys = append(out.Keys, api.Compared{Key: right[0].Key, Status: "right", RightHash: right[0].Hash})
			right = right[1:]
		default:
			out.Keys = append(out.Keys, compared(&r, &left[0], &right[0]))
			left, right = left[1:], right[1:]
		}
		out.Same = out.Same && out.Keys[len(out.Keys)-1].Status == "same"
	}
	return out, nil
}

func compared(r *api.CompareRequest, a, b *api.Value) api.Compared {
	c := api.Compared{Key: a.Key, Status: "same", LeftHash: a.Hash, RightHash: b.Hash}
	if a.Hash != b.Hash {
		c.Status = "differs"
		if r.Diff && !api.Hidden(a.Key) {
			c.Unified = unified(r.LeftArea+"/"+r.LeftGroup+"/"+a.Key, r.RightArea+"/"+r.RightGroup+"/"+b.Key, a.Type, b.Type, a.Bytes, b.Bytes)
		}
	}
	return c
}

// side gives one side of a comparison in the order of keys.
func (s *Service) side(v *state.View, area, group string, effective bool) ([]api.Value, error) {
	d := newReading(v, &api.Client{})
	if _, ok := d.tree.Get(area); !ok {
		return nil, errs.New(errs.NotFound, "area: there is no area named %q", area).With(errs.Detail{Field: "area", Value: area})
	}
	if effective {
		e, err := d.evaluate(area, d.all(area, group), true)
		return e.values, damaged(err)
	}
	list, err := s.released(v, area, group)
	if err != nil {
		return nil, err
	}
	out := make([]api.Value, len(list))
	for i := range list {
		out[i] = api.Value{Key: list[i].Key, Type: list[i].Type, Bytes: list[i].Bytes, Hash: hashOf(list[i].Type, list[i].Bytes)}
	}
	return out, nil
}
