package warehouse

import (
	"context"
	"strconv"

	"nekoq/services/errs"
	"nekoq/warehouse/internal/table"
)

// countPrefix counts the watch toward the quotas of its first key, or refuses it. The
// quota is replicated, the count is this server's.
func (w *Watcher) countPrefix() error {
	if w.system {
		return nil
	}
	v, err := w.s.view(context.Background(), true)
	if err != nil {
		return nil //nolint:nilerr // begin reads too, and tells
	}
	defer v.Release()
	if v.meta.Quotas == 0 {
		return nil
	}
	quotas, err := table.QuotasOf(v.View, w.req.Start)
	if err != nil {
		return damaged(err)
	}
	p := &w.s.perPrefix
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range quotas {
		q := &quotas[i]
		if q.MaxWatches > 0 && uint64(p.n[string(q.Prefix)]) >= q.MaxWatches {
			return errs.New(errs.QuotaExceeded, "the quota of the prefix %q allows %d watches on one server", q.Prefix, q.MaxWatches).
				With(errs.Detail{Field: "max_watches", Value: string(q.Prefix), Limit: strconv.FormatUint(q.MaxWatches, 10) + " watches"})
		}
	}
	for i := range quotas {
		if quotas[i].MaxWatches == 0 {
			continue
		}
		if p.n == nil {
			p.n = make(map[string]int)
		}
		k := string(quotas[i].Prefix)
		p.n[k]++
		w.quotas = append(w.quotas, k)
	}
	return nil
}
