package warehouse

import (
	"context"
	"io"
	"time"

	"nekoq/warehouse/api"
)

var _ Store = (*Service)(nil)

func (s *Service) Range(ctx context.Context, r *api.RangeRequest) (api.RangeResult, error) {
	panic("being built")
}

func (s *Service) PutOne(ctx context.Context, op *api.PutOp) (api.PutResult, error) {
	panic("being built")
}

func (s *Service) DeleteRange(ctx context.Context, op *api.DeleteOp) (api.DeleteResult, error) {
	panic("being built")
}

func (s *Service) Txn(ctx context.Context, t *api.Txn) (api.TxnResult, error) { panic("being built") }

func (s *Service) CompactTo(ctx context.Context, rev uint64, physical bool) (api.Header, error) {
	panic("being built")
}

func (s *Service) GrantLease(ctx context.Context, id uint64, ttl time.Duration) (Leased, error) {
	panic("being built")
}

func (s *Service) RevokeLease(ctx context.Context, id uint64) (uint64, error) { panic("being built") }

func (s *Service) KeepLease(ctx context.Context, id uint64) (Leased, error) { panic("being built") }

func (s *Service) LeaseTTL(ctx context.Context, id uint64, keys bool) (Leased, error) {
	panic("being built")
}

func (s *Service) Leases(ctx context.Context) ([]uint64, uint64, error) { panic("being built") }

func (s *Service) HashKV(ctx context.Context, rev uint64) (Hash, error) { panic("being built") }

func (s *Service) Sizes() Sizes { panic("being built") }

func (s *Service) SnapshotStream(ctx context.Context) (io.ReadCloser, int64, error) {
	panic("being built")
}
func (s *Service) Defragment(ctx context.Context) error        { panic("being built") }
func (s *Service) Alarms(ctx context.Context) ([]Alarm, error) { panic("being built") }
func (s *Service) Head(ctx context.Context, stale bool) (api.Header, error) {
	panic("being built")
}
