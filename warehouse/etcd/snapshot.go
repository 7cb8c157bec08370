package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"hash"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/errs"
	"nekoq/warehouse"
	"nekoq/warehouse/etcd/internal/backend"
	"nekoq/warehouse/etcd/internal/table"
)

// snapshotPiece is the size of the messages that a snapshot is sent in.
const snapshotPiece = 64 << 10

// At most so many snapshots are on the disk at a time, since a client may take its time,
// and the next one waits so long.
const (
	mostSnapshots    = 4
	snapshotPatience = 5 * time.Second
)

// Snapshot implements etcd's Maintenance: everything that is seen through this door, in
// a file of etcd's own format, followed by its SHA-256. The file is written to the
// data folder first, and has no name there.
func (s *Door) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	ctx := stream.Context()
	if _, err := s.admin(ctx, "snapshot"); err != nil {
		return err
	}
	if err := s.snapshotSlot(ctx); err != nil {
		return err
	}
	defer func() { <-s.snapshots }()
	f, err := backend.Create(s.deps.Scratch, s.room)
	if err != nil {
		return snapshotError(ctx, err)
	}
	defer f.Close()
	h, err := s.writeSnapshot(ctx, f)
	if err != nil {
		return snapshotError(ctx, err)
	}
	image, err := f.Finish()
	if err != nil {
		return snapshotError(ctx, err)
	}
	defer image.Close()
	out := pieces{stream: stream, header: h, left: image.Size(), sum: sha256.New()}
	if _, err := image.WriteTo(&out); err != nil {
		return snapshotError(ctx, err)
	}
	return stream.Send(&pb.SnapshotResponse{Header: h, Blob: out.sum.Sum(nil), Version: ClusterVersion})
}

// snapshotSlot waits for one of the snapshots that may be made and sent at a time.
func (s *Door) snapshotSlot(ctx context.Context) error {
	timer := s.clock.NewTimer(snapshotPatience)
	defer timer.Stop()
	select {
	case s.snapshots <- struct{}{}:
		return nil
	case <-timer.C():
		return status.Errorf(codes.ResourceExhausted, "etcdserver: %d snapshots of this node are being sent; end one of them, or try again", mostSnapshots)
	case <-ctx.Done():
		return grpcError(ctx, ctx.Err())
	}
}

// snapshotError tells what went wrong. Without room on the disk nothing is wrong with
// the store, so it is not etcd's no-space error.
func snapshotError(ctx context.Context, err error) error {
	if errs.Has(err, errs.StorageFull) {
		return status.Error(codes.ResourceExhausted, "etcdserver: "+err.Error())
	}
	return grpcError(ctx, err)
}

// room tells whether the data folder's disk can take so many bytes more.
func (s *Door) room(next int64) error {
	if s.deps.Room == nil {
		return nil
	}
	return s.deps.Room(next)
}

// writeSnapshot writes what this door's clients see.
func (s *Door) writeSnapshot(ctx context.Context, f *backend.File) (*pb.ResponseHeader, error) {
	x, err := s.store.Export(ctx)
	if err != nil {
		return nil, err
	}
	defer x.Release()
	index, term := s.deps.Machine.Applied()
	p := backend.Position{Index: max(index, 1), Term: max(term, 1), Compacted: x.Compacted()}
	if err := f.SetPosition(p); err != nil {
		return nil, err
	}
	last := x.Compacted()
	if err := x.Changes(func(c *warehouse.Exported) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		last = max(last, c.Revision)
		return f.Put(c.Sub, &mvccpb.KeyValue{
			Key: c.KV.Key, Value: c.KV.Value, CreateRevision: int64(c.KV.CreateRevision), ModRevision: int64(c.KV.ModRevision),
			Version: int64(c.KV.Version), Lease: int64(c.KV.Lease),
		}, c.KV.Deleted)
	}); err != nil {
		return nil, err
	}
	// An etcd begins at the newest row's revision. When the newest change was one of a key
	// of the system, the deletion of a key that nobody can name or watch stands for it.
	if last < x.Revision() && x.Revision() > 1 {
		if err := f.Put(0, &mvccpb.KeyValue{ModRevision: int64(x.Revision())}, true); err != nil {
			return nil, err
		}
	}
	x.Leases(func(l warehouse.LeaseInfo) bool {
		err = f.PutLease(l.ID, seconds(l.TTL), left(l))
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	if err := writeAuth(f, x); err != nil {
		return nil, err
	}
	return s.header(x.Revision()), nil
}

// left is the seconds that a lease has. Without any, one whose keys are being deleted,
// etcd would give it the whole of its time anew.
func left(l warehouse.LeaseInfo) int64 { return max(seconds(l.Remaining), 1) }

func writeAuth(f *backend.File, x *warehouse.Export) error {
	m, err := table.ReadMeta(x.Reader())
	if err != nil {
		return err
	}
	if err := f.SetAuth(m.Enabled, m.Revision); err != nil {
		return err
	}
	if err := table.EachUser(x.Reader(), func(u *table.User) error {
		return f.PutUser(&authpb.User{Name: []byte(u.Name), Password: u.Hash, Roles: u.Roles, Options: &authpb.UserAddOptions{NoPassword: u.NoPassword}})
	}); err != nil {
		return err
	}
	return table.EachRole(x.Reader(), func(r *table.Role) error {
		return f.PutRole(&authpb.Role{Name: []byte(r.Name), KeyPermission: permissions(r)})
	})
}

// pieces sends what is written to it, and sums it up.
type pieces struct {
	stream pb.Maintenance_SnapshotServer
	header *pb.ResponseHeader
	left   int64
	sum    hash.Hash
}

func (p *pieces) Write(b []byte) (n int, err error) {
	for n < len(b) {
		piece := bytes.Clone(b[n:min(n+snapshotPiece, len(b))]) // kept by the transport after Send
		p.sum.Write(piece)
		p.left -= int64(len(piece))
		if err := p.stream.Send(&pb.SnapshotResponse{Header: p.header, RemainingBytes: uint64(p.left), Blob: piece, Version: ClusterVersion}); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}
