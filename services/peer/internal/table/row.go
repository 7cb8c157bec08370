package table

import (
	"encoding/hex"
	"strings"

	"nekoq/services/errs"
	"nekoq/services/state"
)

// Incarnation is the random identity of one life of a node: made when its data
// folder is, gone with it. The zero value means "not seen yet".
type Incarnation [16]byte

// IsZero tells whether the incarnation is not known.
func (i Incarnation) IsZero() bool { return i == Incarnation{} }

// String gives 32 lower-case hex digits.
func (i Incarnation) String() string { return hex.EncodeToString(i[:]) }

// ParseIncarnation reads what String gives.
func ParseIncarnation(s string) (Incarnation, error) {
	var i Incarnation
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(i) {
		return i, errs.Invalid("incarnation", s, "32 hex digits")
	}
	copy(i[:], b)
	return i, nil
}

// State is where a member stands on its way in or out.
type State uint8

const (
	// Voter counts for the quorum.
	Voter State = 1
	// Joining receives the log and does not vote until it has caught up.
	Joining State = 2
	// Leaving is being removed.
	Leaving State = 3
)

func (s State) String() string {
	switch s {
	case Voter:
		return "voter"
	case Joining:
		return "joining"
	case Leaving:
		return "leaving"
	}
	return "unknown"
}

// Member is one row of the member table.
type Member struct {
	ID          string
	Incarnation Incarnation
	// Address is the advertised peer address; HTTP and Native are where clients go.
	Address, HTTP, Native string
	// Version is the newest cluster version that the node supports; 0 is not known yet.
	Version  uint32
	Software string
	State    State
	// Joined is the store revision at which the member entered the table.
	Joined uint64
}

func (m Member) append(w *writer) {
	w.str(m.ID)
	w.bytes(m.Incarnation[:])
	w.str(m.Address)
	w.str(m.HTTP)
	w.str(m.Native)
	w.uint(uint64(m.Version))
	w.str(m.Software)
	w.uint(uint64(m.State))
	w.uint(m.Joined)
}

func readMember(r *reader) (m Member) {
	m.ID = r.str()
	inc := r.bytes()
	if len(inc) != len(m.Incarnation) {
		r.bad = true
		return m
	}
	copy(m.Incarnation[:], inc)
	m.Address = r.str()
	m.HTTP = r.str()
	m.Native = r.str()
	m.Version = uint32(r.uint())
	m.Software = r.str()
	m.State = State(r.uint())
	m.Joined = r.uint()
	return m
}

func (m Member) encode() []byte {
	w := newWriter()
	m.append(w)
	return w.b
}

func decodeMember(b []byte) (Member, error) {
	r := newReader(b)
	m := readMember(r)
	return m, r.err("a member row")
}

// Snapshot is the whole of the peer tables, decoded. It is immutable.
type Snapshot struct {
	ClusterID string
	// Members by id. Order holds the ids, ascending.
	Members map[string]Member
	Order   []string
	removed map[string]uint64
	// removedIDs are the nodes of which any life was removed.
	removedIDs map[string]bool
	// Revision and ClusterVersion of the view it was read from.
	Revision       uint64
	ClusterVersion uint32
}

// Removed tells whether that life of the node was removed, and at which revision.
func (s *Snapshot) Removed(id string, inc Incarnation) (uint64, bool) {
	rev, ok := s.removed[string(tombKey(id, inc))]
	return rev, ok
}

// RemovedID tells whether any life of the node was removed.
func (s *Snapshot) RemovedID(id string) bool {
	return s.removedIDs[id]
}

// Read decodes the tables.
func Read(r state.Reader) (*Snapshot, error) {
	s := &Snapshot{
		Members: map[string]Member{}, removed: map[string]uint64{}, removedIDs: map[string]bool{},
		Revision: r.Revision(), ClusterVersion: r.ClusterVersion(),
	}
	if id, ok := r.Get(Cluster, clusterIDKey); ok {
		s.ClusterID = string(id)
	}
	var err error
	r.Scan(Members, nil, nil, func(_, v []byte) bool {
		var m Member
		if m, err = decodeMember(v); err != nil {
			return false
		}
		s.Members[m.ID] = m
		s.Order = append(s.Order, m.ID)
		return true
	})
	if err != nil {
		return nil, err
	}
	r.Scan(Removed, nil, nil, func(k, v []byte) bool {
		d := newReader(v)
		s.removed[string(k)] = d.uint()
		id, _, _ := strings.Cut(string(k), "\x00")
		s.removedIDs[id] = true
		err = d.err("a row of the removed members")
		return err == nil
	})
	return s, err
}

var clusterIDKey = []byte("cluster_id")

// tombKey: ids hold no zero byte, so it separates.
func tombKey(id string, inc Incarnation) []byte {
	k := append(make([]byte, 0, len(id)+1+len(inc)), id...)
	k = append(k, 0)
	return append(k, inc[:]...)
}
