package rest

import (
	"context"

	"nekoq/services/auth"
	"nekoq/warehouse"
	"nekoq/warehouse/form"
)

type txnIn struct{ Body form.Txn }

type txnOut struct{ Body form.Result }

func (d *door) txn(ctx context.Context, in *txnIn) (*txnOut, error) {
	t, err := in.Body.Txn()
	if err != nil {
		return nil, err
	}
	if err := warehouse.AskTxn(t, func(a auth.Action, r auth.Resource) error { return d.srv.Allow(ctx, a, r) }); err != nil {
		return nil, err
	}
	res, err := d.svc.Txn(ctx, t)
	if err != nil {
		return nil, err
	}
	return &txnOut{Body: *form.ResultOf(&res)}, nil
}
