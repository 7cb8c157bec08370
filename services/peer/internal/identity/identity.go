// Package identity keeps who a node is in DataDir/node.json: its id, its
// incarnation (the random identity of this data folder), the cluster it belongs
// to, and the incarnations of the peers that it has accepted.
//
// The file is replaced whole: written beside, synced, renamed, folder synced. A
// Store is safe for concurrent use. Only services/peer imports it.
package identity

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"nekoq/services/errs"
	"nekoq/services/peer/internal/table"
)

// FileName is the file's name in the data folder.
const FileName = "node.json"

// Phase is how far the node's membership has come.
type Phase string

const (
	// New has never been part of a cluster.
	New Phase = "new"
	// Joining was admitted and may not have received anything yet.
	Joining Phase = "joining"
	// Member has a Raft state in its data folder; without it, the folder is damaged.
	Member Phase = "member"
)

// Identity is the content of the file.
type Identity struct {
	NodeID      string `json:"node_id"`
	Incarnation string `json:"incarnation"`
	ClusterID   string `json:"cluster_id"`
	Phase       Phase  `json:"phase"`
	// Joined is the store revision at which the node entered the member table,
	// 0 for a node of the first start.
	Joined uint64 `json:"joined"`
	// Peers are the incarnations of peers that this node has accepted, kept so
	// that a peer which comes back with an empty folder is refused even before
	// the member table says so.
	Peers map[string]string `json:"peers,omitempty"`
}

// Store is the file and its content.
type Store struct {
	path    string
	inc     table.Incarnation
	created bool

	mu  sync.Mutex
	cur Identity
}

// Open reads the file, or makes it, with a new incarnation, when there is none.
func Open(dir, nodeID string) (*Store, error) {
	s := &Store{path: filepath.Join(dir, FileName)}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, s.create(nodeID)
	}
	if err != nil {
		return nil, errs.New(errs.Unavailable, "cannot read %s", s.path).Wrap(err)
	}
	if err := json.Unmarshal(b, &s.cur); err != nil {
		return nil, s.corrupt("it is not valid JSON").Wrap(err)
	}
	if s.inc, err = table.ParseIncarnation(s.cur.Incarnation); err != nil || s.inc.IsZero() {
		return nil, s.corrupt("its incarnation is not valid")
	}
	if s.cur.NodeID != nodeID {
		return nil, errs.New(errs.IdentityRefused,
			"the data folder belongs to node %q (%s), and node.id is %q: set node.id or node.data_dir right", s.cur.NodeID, s.path, nodeID)
	}
	switch s.cur.Phase {
	case New, Joining, Member:
	default:
		return nil, s.corrupt("its phase is not known")
	}
	return s, nil
}

func (s *Store) corrupt(why string) *errs.Error {
	return errs.New(errs.Corrupt,
		"%s is damaged (%s): restore it from a backup, or remove this node from the cluster, empty its data folder and join anew", s.path, why)
}

func (s *Store) create(nodeID string) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return errs.New(errs.Unavailable, "cannot make the data folder %s", filepath.Dir(s.path)).Wrap(err)
	}
	s.created = true
	rand.Read(s.inc[:]) // never fails (crypto/rand)
	s.cur = Identity{NodeID: nodeID, Incarnation: s.inc.String(), Phase: New, Peers: map[string]string{}}
	return s.save()
}

// Get gives a copy of the content.
func (s *Store) Get() Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cur
	c.Peers = maps.Clone(s.cur.Peers)
	return c
}

// Created tells whether Open made the file.
func (s *Store) Created() bool { return s.created }

// Incarnation is this node's own.
func (s *Store) Incarnation() table.Incarnation { return s.inc }

// Pinned gives the incarnation under which the peer was accepted.
func (s *Store) Pinned(id string) (table.Incarnation, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	inc, err := table.ParseIncarnation(s.cur.Peers[id])
	return inc, err == nil
}

// Update changes the content and, when it changed, syncs it to the disk before
// it returns.
func (s *Store) Update(change func(*Identity)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.cur
	next.Peers = maps.Clone(s.cur.Peers)
	if next.Peers == nil {
		next.Peers = map[string]string{}
	}
	change(&next)
	if next.NodeID == s.cur.NodeID && next.ClusterID == s.cur.ClusterID && next.Phase == s.cur.Phase &&
		next.Joined == s.cur.Joined && maps.Equal(next.Peers, s.cur.Peers) {
		return nil
	}
	prev := s.cur
	s.cur = next
	if err := s.save(); err != nil {
		s.cur = prev
		return err
	}
	return nil
}

func (s *Store) save() error {
	b, err := json.MarshalIndent(s.cur, "", "  ")
	if err != nil {
		return errs.New(errs.Internal, "cannot encode %s", s.path).Wrap(err)
	}
	if err := replaceFile(s.path, append(b, '\n')); err != nil {
		return errs.New(errs.Unavailable, "cannot write %s", s.path).Wrap(err)
	}
	return nil
}

func replaceFile(path string, content []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	err = dir.Sync()
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	return err
}
