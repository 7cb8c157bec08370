package warehouse

import (
	"context"
	"strconv"
	"strings"

	"nekoq/services/errs"
	"nekoq/warehouse/api"
)

// FolderStep is one step of the watch of a folder.
type FolderStep struct {
	Revision uint64
	// Existing is set in the first step alone: the keys that there are.
	Existing []api.KV
	First    bool
	Changes  []FolderChange
}

// FolderChange is one change.
type FolderChange struct {
	Kind FolderKind
	KV   api.KV
}

// FolderKind says what happened to a key of the folder.
type FolderKind string

// The kinds.
const (
	FolderCreated  FolderKind = "created"
	FolderModified FolderKind = "modified"
	FolderDeleted  FolderKind = "deleted"
)

// Folder watches the keys below a path that ends with a slash: first those that
// exist, then every change, none lost. It is read by one goroutine.
type Folder struct {
	s    *Service
	w    *Watcher
	span api.Span
	path string
}

// maxFolder bounds the keys of a folder that can be watched, since its first step
// lists them all.
const maxFolder = 100_000

// WatchFolder begins to watch a folder. after 0 begins with the existing keys; else
// it goes on after that revision.
func (s *Service) WatchFolder(ctx context.Context, path string, after uint64) (*Folder, error) {
	if !strings.HasSuffix(path, "/") {
		return nil, errs.Invalid("path", path, "a path that ends with /")
	}
	f := &Folder{s: s, span: api.Prefix([]byte(path)), path: path}
	if err := s.checkSpan(&f.span); err != nil {
		return nil, err
	}
	if after == 0 {
		return f, nil
	}
	return f, f.watch(ctx, after)
}

func (f *Folder) watch(ctx context.Context, after uint64) (err error) {
	start, end := f.span.Bounds()
	f.w, err = f.s.Watch(ctx, &api.WatchRequest{Start: start, End: end, After: after})
	return err
}

// Next gives the existing keys, then blocks for changes. An empty step tells only how
// far the watch has come.
func (f *Folder) Next(ctx context.Context) (FolderStep, error) {
	if f.w == nil {
		return f.list(ctx)
	}
	b, err := f.w.Next(ctx)
	if err != nil {
		return FolderStep{}, err
	}
	return changed(&b), nil
}

// Past gives the changes that there are, without waiting for any. It is for a folder
// that is watched from a revision on.
func (f *Folder) Past(ctx context.Context) (FolderStep, error) {
	b, err := f.w.Past(ctx)
	if err != nil {
		return FolderStep{}, err
	}
	return changed(&b), nil
}

func changed(b *api.WatchBatch) FolderStep {
	out := FolderStep{Revision: b.Revision}
	for i := range b.Events {
		e := &b.Events[i]
		c := FolderChange{Kind: FolderModified, KV: e.KV}
		switch {
		case e.Kind == api.EventDelete:
			c.Kind = FolderDeleted
		case e.KV.Version == 1:
			c.Kind = FolderCreated
		}
		out.Changes = append(out.Changes, c)
	}
	return out
}

// list reads the folder and begins the watch where the reading stood.
func (f *Folder) list(ctx context.Context) (FolderStep, error) {
	res, err := f.s.Range(ctx, &api.RangeRequest{Span: f.span, Limit: maxFolder})
	if err != nil {
		return FolderStep{}, err
	}
	if res.More {
		return FolderStep{}, errs.New(errs.TooLarge, "path: the folder %q has %d keys; a watched one may have %d", f.path, res.Count, maxFolder).
			With(errs.Detail{Field: "path", Value: strconv.FormatUint(res.Count, 10) + " keys", Limit: strconv.Itoa(maxFolder) + " keys"})
	}
	if err := f.watch(ctx, res.Revision); err != nil {
		return FolderStep{}, err
	}
	return FolderStep{Revision: res.Revision, Existing: res.Items, First: true}, nil
}

// Revision is where another watch can go on.
func (f *Folder) Revision() uint64 {
	if f.w == nil {
		return 0
	}
	return f.w.From()
}

// Close ends the watch.
func (f *Folder) Close() {
	if f.w != nil {
		f.w.Close()
	}
}
