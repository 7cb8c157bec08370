package warehouse

import (
	"context"

	"nekoq/warehouse/api"
)

// PutHolding is Put that is refused (stale_token) unless the token still holds.
func (s *Service) PutHolding(ctx context.Context, r *api.PutRequest, token api.Token) (api.WriteResult, error) {
	s.metrics.puts.Inc()
	ttl, err := s.checkPut(r)
	if err != nil {
		return api.WriteResult{}, err
	}
	return s.writeHeld(ctx, r.Held(ttl, token), r.If)
}

// DeleteHolding is Delete that is refused (stale_token) unless the token still holds,
// also when there is nothing to delete.
func (s *Service) DeleteHolding(ctx context.Context, r *api.DeleteRequest, token api.Token) (api.WriteResult, error) {
	s.metrics.deletes.Inc()
	if err := s.checkKey(r.Key); err != nil {
		return api.WriteResult{}, err
	}
	if err := checkCondition(r.If); err != nil {
		return api.WriteResult{}, err
	}
	return s.writeHeld(ctx, r.Held(token), r.If)
}

func (s *Service) writeHeld(ctx context.Context, t *api.Txn, c api.Condition) (api.WriteResult, error) {
	if err := s.checkHeld(t); err != nil {
		return api.WriteResult{}, err
	}
	res, err := s.runTxn(ctx, t)
	if err != nil {
		return api.WriteResult{}, err
	}
	return res.Written(c)
}

func (s *Service) checkHeld(t *api.Txn) error {
	for i := range t.Holding {
		if err := checkToken(&t.Holding[i]); err != nil {
			return err
		}
	}
	return nil
}

// DeleteRangeHolding is DeleteRange that is refused (stale_token) unless the token
// still holds.
func (s *Service) DeleteRangeHolding(ctx context.Context, op *api.DeleteOp, token api.Token) (api.DeleteResult, error) {
	s.metrics.deletes.Inc()
	if err := s.checkSpan(&op.Span); err != nil {
		return api.DeleteResult{}, err
	}
	return s.deleteRange(ctx, &api.Txn{Holding: []api.Token{token}, Then: []api.Op{{Delete: op}}})
}

func (s *Service) deleteRange(ctx context.Context, t *api.Txn) (api.DeleteResult, error) {
	if err := s.checkHeld(t); err != nil {
		return api.DeleteResult{}, err
	}
	res, err := s.runTxn(ctx, t)
	if err != nil {
		return api.DeleteResult{}, err
	}
	out := *res.Ops[0].Delete
	out.Header = res.Header
	return out, nil
}
