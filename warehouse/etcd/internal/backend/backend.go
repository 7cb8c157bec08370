// Package backend writes files in the format of etcd's backend: the bbolt file that
// `etcdctl snapshot save` gets, `snapshot status` reads and `snapshot restore` makes the
// data folder of an etcd of. The buckets and their rows are those of etcd 3.4 to 3.7
// (server/storage/schema and server/storage/mvcc there).
//
// Only package etcd imports it.
package backend

import (
	"encoding/binary"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

var (
	keys  = []byte("key")
	meta  = []byte("meta")
	lease = []byte("lease")
	auth  = []byte("auth")
	users = []byte("authUsers")
	roles = []byte("authRoles")

	// buckets are all that etcd makes: a restore expects them.
	buckets = [...][]byte{keys, meta, lease, auth, users, roles, []byte("alarm"), []byte("cluster"), []byte("members"), []byte("members_removed")}
)

// step is the bytes of rows after which a transaction ends, and room is looked for.
const step = 8 << 20

// File is one that is being written. It belongs to one goroutine.
type File struct {
	db      *bolt.DB
	tx      *bolt.Tx
	room    func(next int64) error
	pending int64
}

// Create begins a file, which has no name any more once Create has returned, and is gone
// with Close. room is asked before each step whether the disk can take so many bytes
// more; what it answers ends the writing.
func Create(dir string, room func(next int64) error) (*File, error) {
	if err := room(2 * step); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "etcd-snapshot-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_ = f.Close()
	// Nothing is synced: a crash ends the request, and nobody reads the file then.
	db, err := bolt.Open(f.Name(), 0o600, &bolt.Options{NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	w := &File{db: db, room: room}
	if err := w.begin(); err != nil {
		_ = w.Close()
		return nil, err
	}
	for _, name := range buckets {
		if _, err := w.tx.CreateBucketIfNotExists(name); err != nil {
			_ = w.Close()
			return nil, err
		}
	}
	return w, nil
}

func (f *File) begin() (err error) {
	f.pending = 0
	f.tx, err = f.db.Begin(true)
	return err
}

// put keeps key and value until the step ends.
func (f *File) put(bucket, key, value []byte) error {
	if f.pending >= step {
		if err := f.room(2 * step); err != nil {
			return err
		}
		if err := f.tx.Commit(); err != nil {
			return err
		}
		if err := f.begin(); err != nil {
			return err
		}
	}
	f.pending += int64(len(key) + len(value))
	b := f.tx.Bucket(bucket)
	b.FillPercent = 1 // rows come in order
	return b.Put(key, value)
}

// Put writes one version of a key, or its deletion. They come in the order of revisions.
func (f *File) Put(sub uint32, kv *mvccpb.KeyValue, deleted bool) error {
	row := append(revision(uint64(kv.ModRevision)), '_')
	row = binary.BigEndian.AppendUint64(row, uint64(sub))
	if deleted {
		row, kv = append(row, 't'), &mvccpb.KeyValue{Key: kv.Key}
	}
	v, err := proto.Marshal(kv)
	if err != nil {
		return err
	}
	return f.put(keys, row, v)
}

func revision(rev uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 18), rev)
}

// Position is where the file stands in the log, and what of the history is gone.
type Position struct{ Index, Term, Compacted uint64 }

// SetPosition writes it.
func (f *File) SetPosition(p Position) error {
	if err := f.put(meta, []byte("consistent_index"), revision(p.Index)); err != nil {
		return err
	}
	if err := f.put(meta, []byte("term"), revision(p.Term)); err != nil || p.Compacted == 0 {
		return err
	}
	row := binary.BigEndian.AppendUint64(append(revision(p.Compacted), '_'), 0)
	if err := f.put(meta, []byte("scheduledCompactRev"), row); err != nil {
		return err
	}
	return f.put(meta, []byte("finishedCompactRev"), row)
}

// PutLease writes a lease, times in seconds.
func (f *File) PutLease(id uint64, ttl, left int64) error {
	v := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), id)
	v = protowire.AppendVarint(protowire.AppendTag(v, 2, protowire.VarintType), uint64(ttl))
	v = protowire.AppendVarint(protowire.AppendTag(v, 3, protowire.VarintType), uint64(left))
	return f.put(lease, revision(id), v)
}

// SetAuth writes whether auth is on, and its revision.
func (f *File) SetAuth(on bool, rev uint64) error {
	enabled := []byte{0}
	if on {
		enabled[0] = 1
	}
	if err := f.put(auth, []byte("authEnabled"), enabled); err != nil {
		return err
	}
	return f.put(auth, []byte("authRevision"), revision(rev))
}

// PutUser writes a user.
func (f *File) PutUser(u *authpb.User) error {
	v, err := proto.Marshal(u)
	if err != nil {
		return err
	}
	return f.put(users, u.Name, v)
}

// PutRole writes a role.
func (f *File) PutRole(r *authpb.Role) error {
	v, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	return f.put(roles, r.Name, v)
}

// Finish ends the writing, and gives a reading of the whole file.
func (f *File) Finish() (*Image, error) {
	err := f.tx.Commit()
	f.tx = nil
	if err != nil {
		return nil, err
	}
	tx, err := f.db.Begin(false)
	if err != nil {
		return nil, err
	}
	return &Image{tx}, nil
}

// Close gives the file's space back. An Image is closed before it.
func (f *File) Close() error {
	if f.tx != nil {
		_ = f.tx.Rollback()
	}
	return f.db.Close()
}

// Image is a whole file.
type Image struct{ tx *bolt.Tx }

// Size is its bytes, whole pages.
func (i *Image) Size() int64 { return i.tx.Size() }

// WriteTo implements io.WriterTo.
func (i *Image) WriteTo(w io.Writer) (int64, error) { return i.tx.WriteTo(w) }

// Close ends the reading.
func (i *Image) Close() error { return i.tx.Rollback() }
