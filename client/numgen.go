package client

import (
	"context"
	"sync"

	"nekoq/numgen/api"
	"nekoq/numgen/idgen"
	"nekoq/services/errs"
)

// Numgen gives out ids.
type Numgen struct {
	c *Client
	// seen holds the kinds of generators by name. A retried call to a kind that is
	// made in memory costs nothing, so it needs no session.
	seen *sync.Map
}

// Numgen is the id service.
func (c *Client) Numgen() Numgen { return Numgen{c: c, seen: &c.kinds} }

// IDs gives n ids of a generator, increasing. The generator is created on first
// use where the server allows. A retried request to a sequence gets the same
// numbers.
func (g Numgen) IDs(ctx context.Context, name string, n int) ([]string, error) {
	kind, packed, err := g.Packed(ctx, name, n)
	if err != nil {
		return nil, err
	}
	return kind.Texts(packed, n), nil
}

// Next gives one id.
func (g Numgen) Next(ctx context.Context, name string) (string, error) {
	ids, err := g.IDs(ctx, name, 1)
	if err != nil {
		return "", err
	}
	if len(ids) != 1 {
		return "", errs.New(errs.ProtocolViolation, "the server answered %d ids instead of 1", len(ids))
	}
	return ids[0], nil
}

// Packed is IDs in packed form: kind.Next takes it apart.
func (g Numgen) Packed(ctx context.Context, name string, n int) (kind idgen.Kind, packed []byte, err error) {
	if n < 1 {
		return 0, nil, errs.Invalid("count", n, "1 or more")
	}
	call := g.c.write
	seen, _ := g.seen.Load(name)
	if k, ok := seen.(idgen.Kind); ok && k != idgen.Sequence && k != idgen.Format {
		call = g.c.read
	}
	b, err := call(ctx, api.MethodIDs, api.AppendIDsRequest(make([]byte, 0, 8+len(name)), name, n))
	if err != nil {
		return 0, nil, err
	}
	kind, packed, err = api.ParseIDs(b)
	if err == nil && seen != any(kind) {
		g.seen.Store(name, kind)
	}
	return kind, packed, err
}

// Create makes a generator; made again with the same kind and options it is no
// change, with others already_exists.
func (g Numgen) Create(ctx context.Context, r api.CreateRequest) (*api.Generator, error) {
	return callNumgen[api.Generator](ctx, g, api.MethodCreate, r, true)
}

// Get gives a generator.
func (g Numgen) Get(ctx context.Context, name string) (*api.Generator, error) {
	return callNumgen[api.Generator](ctx, g, api.MethodGet, api.NameRequest{Name: name}, false)
}

// List gives a page of generators in the order of their names.
func (g Numgen) List(ctx context.Context, r api.ListRequest) (*api.GeneratorList, error) {
	return callNumgen[api.GeneratorList](ctx, g, api.MethodList, r, false)
}

// Update changes the description, or the steps of a segment.
func (g Numgen) Update(ctx context.Context, r api.UpdateRequest) (*api.Generator, error) {
	return callNumgen[api.Generator](ctx, g, api.MethodUpdate, r, true)
}

// Delete removes a generator.
func (g Numgen) Delete(ctx context.Context, name string) error {
	g.seen.Delete(name)
	_, err := callNumgen[api.Empty](ctx, g, api.MethodDelete, api.NameRequest{Name: name}, true)
	return err
}

// Decode takes an id apart, by its generator or by its kind.
func (g Numgen) Decode(ctx context.Context, r api.DecodeRequest) (*idgen.Decoded, error) {
	return callNumgen[idgen.Decoded](ctx, g, api.MethodDecode, r, false)
}

// Workers gives a page of worker numbers and who holds them.
func (g Numgen) Workers(ctx context.Context, r api.WorkersRequest) (*api.WorkerList, error) {
	return callNumgen[api.WorkerList](ctx, g, api.MethodWorkers, r, false)
}
