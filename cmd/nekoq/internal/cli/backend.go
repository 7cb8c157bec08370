package cli

import (
	"context"
	"time"

	"nekoq/client"
	ids "nekoq/numgen/api"
	"nekoq/numgen/idgen"
	keys "nekoq/warehouse/api"
)

// Dial is Env.Connect over the Go client. A command line gives up when every
// endpoint has failed once.
func Dial(endpoints []string, timeout time.Duration) (Backend, error) {
	c, err := client.New(client.Config{Endpoints: endpoints, Timeout: timeout, FailFast: true, Name: "nekoq-cli"})
	if err != nil {
		return nil, err
	}
	return backend{c}, nil
}

// DialPatient is Env.Patient over the Go client: it tries on.
func DialPatient(endpoints []string, timeout time.Duration) (Backend, error) {
	c, err := client.New(client.Config{Endpoints: endpoints, Timeout: timeout, Name: "nekoq-cli"})
	if err != nil {
		return nil, err
	}
	return backend{c}, nil
}

// backend is the Go client as Backend.
type backend struct{ *client.Client }

func (b backend) NextIDs(ctx context.Context, name string, n int) ([]string, error) {
	return b.Numgen().IDs(ctx, name, n)
}

// deref is for answers that are a pointer next to an error.
func deref[T any](v *T, err error) (T, error) {
	if err != nil {
		var zero T
		return zero, err
	}
	return *v, nil
}

func (b backend) CreateGenerator(ctx context.Context, r ids.CreateRequest) (ids.Generator, error) {
	return deref(b.Numgen().Create(ctx, r))
}

func (b backend) Generator(ctx context.Context, name string) (ids.Generator, error) {
	return deref(b.Numgen().Get(ctx, name))
}

func (b backend) Generators(ctx context.Context, r ids.ListRequest) (ids.GeneratorList, error) {
	return deref(b.Numgen().List(ctx, r))
}

func (b backend) UpdateGenerator(ctx context.Context, r ids.UpdateRequest) (ids.Generator, error) {
	return deref(b.Numgen().Update(ctx, r))
}

func (b backend) DeleteGenerator(ctx context.Context, name string) error {
	return b.Numgen().Delete(ctx, name)
}

func (b backend) DecodeID(ctx context.Context, r ids.DecodeRequest) (idgen.Decoded, error) {
	return deref(b.Numgen().Decode(ctx, r))
}

func (b backend) Workers(ctx context.Context, r ids.WorkersRequest) (ids.WorkerList, error) {
	return deref(b.Numgen().Workers(ctx, r))
}

func (b backend) Put(ctx context.Context, r keys.PutRequest, o ...client.KVOption) (keys.WriteResult, error) {
	if r.If.Set {
		o = append(o, client.IfRevision(r.If.Revision))
	}
	if r.TTL != 0 {
		o = append(o, client.WithTTL(r.TTL))
	}
	if r.Lease != 0 {
		o = append(o, client.WithLease(r.Lease))
	}
	return b.KV().Put(ctx, string(r.Key), r.Value, o...)
}

func (b backend) Get(ctx context.Context, r keys.GetRequest) (keys.GetResult, error) {
	return b.KV().Read(ctx, string(r.Key), readOptions(r.Stale, r.Revision)...)
}

func readOptions(stale bool, revision uint64) (o []client.KVOption) {
	if stale {
		o = append(o, client.Stale())
	}
	if revision != 0 {
		o = append(o, client.AtRevision(revision))
	}
	return o
}

func (b backend) Delete(ctx context.Context, r keys.DeleteRequest, o ...client.KVOption) (keys.WriteResult, error) {
	if r.If.Set {
		o = append(o, client.IfRevision(r.If.Revision))
	}
	return b.KV().Delete(ctx, string(r.Key), o...)
}

func (b backend) List(ctx context.Context, r keys.ListRequest) (keys.ListResult, error) {
	o := readOptions(r.Stale, r.Revision)
	if r.Limit != 0 {
		o = append(o, client.WithLimit(r.Limit))
	}
	if r.PageToken != "" {
		o = append(o, client.WithPageToken(r.PageToken))
	}
	if r.KeysOnly {
		o = append(o, client.KeysOnly())
	}
	return b.KV().ListRange(ctx, string(r.Start), string(r.End), o...)
}

func (b backend) History(ctx context.Context, r keys.HistoryRequest) (keys.HistoryResult, error) {
	o := readOptions(r.Stale, 0)
	if r.Limit != 0 {
		o = append(o, client.WithLimit(r.Limit))
	}
	if r.Before != 0 {
		o = append(o, client.BeforeRevision(r.Before))
	}
	return b.KV().History(ctx, string(r.Key), o...)
}

// Watch watches the key Start, or everything that begins with it.
func (b backend) Watch(ctx context.Context, r keys.WatchRequest, fn func([]keys.Event) error) error {
	var o []client.KVOption
	if !r.Now {
		o = append(o, client.AfterRevision(r.After))
	}
	if r.Prev {
		o = append(o, client.WithPrev())
	}
	begin := b.KV().Watch
	if r.Exact {
		begin = b.KV().WatchKey
	}
	w, err := begin(ctx, string(r.Start), o...)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if err := fn(events); err != nil {
			return err
		}
	}
}

func (b backend) Compact(ctx context.Context, revision uint64) (uint64, error) {
	return b.KV().Compact(ctx, revision)
}

func (b backend) KeyStatus(ctx context.Context, stale bool) (keys.Status, error) {
	return b.KV().Status(ctx, readOptions(stale, 0)...)
}
