// Package table holds the replicated tables of the cluster's membership and
// their pure appliers: the cluster's id, its members, and the lives of nodes
// that were removed.
//
// It obeys the determinism rules of the state machine: an applier reads only
// the transaction and the command, checks first and writes last. Only
// services/peer imports it.
package table

import (
	"encoding/binary"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

// The tables.
const (
	Cluster state.TableID = 16 // "cluster_id" -> id
	Members state.TableID = 17 // node id -> Member
	Removed state.TableID = 18 // node id, 0, incarnation -> revision of the removal
)

// The commands.
const (
	KindInit     command.Kind = 0x0101 // names the cluster and its first members, once
	KindJoin     command.Kind = 0x0102 // enters a member as joining
	KindObserve  command.Kind = 0x0103 // updates what is known of a member
	KindSetState command.Kind = 0x0104 // joining -> voter, any -> leaving
	KindRemove   command.Kind = 0x0105 // takes a member out and keeps its tombstone
)

// Limits. They change outcomes, so they are constants of cluster version 1.
const (
	MaxMembers = 64
	MaxID      = 63  // bytes of a node id
	MaxAddress = 262 // bytes of an address: a host name of 255, a colon, a port, a spare
)

// Register declares the tables and appliers.
func Register(reg *state.Registry) {
	reg.Table(Cluster, "peer.cluster")
	reg.Table(Members, "peer.members")
	reg.Table(Removed, "peer.removed")
	reg.Handle(KindInit, "cluster.init", 1, applyInit)
	reg.Handle(KindJoin, "member.join", 1, applyJoin)
	reg.Handle(KindObserve, "member.observe", 1, applyObserve)
	reg.Handle(KindSetState, "member.set_state", 1, applySetState)
	reg.Handle(KindRemove, "member.remove", 1, applyRemove)
}

// Init builds the command that names the cluster and enters its first members.
func Init(clusterID string, members []Member) command.Command {
	w := newWriter()
	w.str(clusterID)
	w.uint(uint64(len(members)))
	for _, m := range members {
		m.append(w)
	}
	return command.Command{Kind: KindInit, Payload: w.b}
}

// Join builds the command that enters m as joining. Its result is the revision
// at which m entered (DecodeJoined), the first one when it is repeated.
func Join(m Member) command.Command {
	return command.Command{Kind: KindJoin, Payload: m.encode()}
}

// Observe builds the command that updates addresses, versions and, if not known
// yet, the incarnation.
func Observe(m Member) command.Command {
	return command.Command{Kind: KindObserve, Payload: m.encode()}
}

// SetState builds the command that moves a member on.
func SetState(id string, inc Incarnation, to State) command.Command {
	w := newWriter()
	w.str(id)
	w.bytes(inc[:])
	w.uint(uint64(to))
	return command.Command{Kind: KindSetState, Payload: w.b}
}

// Remove builds the command that takes a member out.
func Remove(id string, inc Incarnation) command.Command {
	w := newWriter()
	w.str(id)
	w.bytes(inc[:])
	return command.Command{Kind: KindRemove, Payload: w.b}
}

// DecodeJoined reads the result of Join.
func DecodeJoined(data []byte) (uint64, bool) {
	if len(data) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(data), true
}

func joined(rev uint64) []byte { return binary.BigEndian.AppendUint64(nil, rev) }

func applyInit(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	r := newReader(cmd.Payload)
	id := r.str()
	n := r.uint()
	if n > MaxMembers {
		return nil, errs.Invalid("members", n, "at most 64")
	}
	members := make([]Member, 0, n)
	for range n {
		m := readMember(r)
		if err := checkMember(m); err != nil && !r.bad {
			return nil, err
		}
		members = append(members, m)
	}
	if err := r.err("cluster.init"); err != nil {
		return nil, err
	}
	if id == "" || len(id) > MaxID {
		return nil, errs.Invalid("cluster_id", id, "1 to 63 bytes")
	}
	if have, ok := tx.Get(Cluster, clusterIDKey); ok {
		if string(have) == id {
			return nil, nil
		}
		return nil, errs.New(errs.AlreadyExists, "the cluster has the id %s already", have)
	}
	tx.Put(Cluster, clusterIDKey, []byte(id))
	for _, m := range members {
		m.Joined = tx.Next()
		if m.State != Joining {
			m.State = Voter
		}
		tx.Put(Members, []byte(m.ID), m.encode())
	}
	return nil, nil
}

func applyJoin(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	m, err := decodeMember(cmd.Payload)
	if err != nil {
		return nil, err
	}
	if err := checkMember(m); err != nil {
		return nil, err
	}
	if m.Incarnation.IsZero() {
		return nil, errs.Invalid("incarnation", m.Incarnation, "one that is not zero")
	}
	if _, ok := tx.Get(Cluster, clusterIDKey); !ok {
		return nil, errs.New(errs.FailedPrecond, "the cluster has no id yet; try again")
	}
	if err := checkNotRemoved(tx, m); err != nil {
		return nil, err
	}
	var count int
	var clash string
	var have *Member
	err = each(tx, func(o Member) {
		count++
		switch {
		case o.ID == m.ID:
			have = &o
		case o.Address == m.Address:
			clash = o.ID
		}
	})
	if err != nil {
		return nil, err
	}
	if have != nil {
		return rejoin(tx, *have, m)
	}
	if clash != "" {
		return nil, errs.New(errs.Conflict, "node %s cannot join at %s: member %s has that address", m.ID, m.Address, clash)
	}
	if count >= MaxMembers {
		return nil, errs.New(errs.Exhausted, "the cluster has %d members, which is the most it can have", MaxMembers)
	}
	m.State, m.Joined = Joining, tx.Next()
	tx.Put(Members, []byte(m.ID), m.encode())
	return joined(m.Joined), nil
}

// rejoin answers a join of an id that is in the table: again for the same life
// of the node, refused for another.
func rejoin(tx *state.Tx, have, m Member) ([]byte, error) {
	if err := checkSame(have, m.Incarnation); err != nil {
		return nil, err
	}
	if have.State == Leaving {
		return nil, errs.New(errs.Conflict, "node %s is being removed; wait until that is done", m.ID)
	}
	write(tx, have, merge(have, m))
	return joined(have.Joined), nil
}

func applyObserve(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	m, err := decodeMember(cmd.Payload)
	if err != nil {
		return nil, err
	}
	if err := checkMember(m); err != nil {
		return nil, err
	}
	have, err := get(tx, m.ID)
	if err != nil {
		return nil, err
	}
	if err := checkSame(have, m.Incarnation); err != nil {
		return nil, err
	}
	write(tx, have, merge(have, m))
	return nil, nil
}

func applySetState(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	r := newReader(cmd.Payload)
	id, inc, to := r.str(), readIncarnation(r), State(r.uint())
	if err := r.err("member.set_state"); err != nil {
		return nil, err
	}
	have, err := get(tx, id)
	if err != nil {
		return nil, err
	}
	if err := checkSame(have, inc); err != nil {
		return nil, err
	}
	next := have
	switch {
	case to == have.State:
		return nil, nil
	case to == Leaving, to == Voter && have.State == Joining:
		next.State = to
	default:
		return nil, errs.New(errs.Conflict, "member %s is %s and cannot become %s", id, have.State, to)
	}
	write(tx, have, next)
	return nil, nil
}

func applyRemove(tx *state.Tx, cmd *command.Command) ([]byte, error) {
	r := newReader(cmd.Payload)
	id, inc := r.str(), readIncarnation(r)
	if err := r.err("member.remove"); err != nil {
		return nil, err
	}
	if _, ok := tx.Get(Removed, tombKey(id, inc)); ok {
		return nil, nil
	}
	have, err := get(tx, id)
	if err != nil {
		return nil, err
	}
	if err := checkSame(have, inc); err != nil {
		return nil, err
	}
	w := newWriter()
	w.uint(tx.Next())
	tx.Delete(Members, []byte(id))
	tx.Put(Removed, tombKey(id, have.Incarnation), w.b)
	return nil, nil
}

func readIncarnation(r *reader) (inc Incarnation) {
	b := r.bytes()
	if len(b) != len(inc) {
		r.bad = true
		return inc
	}
	copy(inc[:], b)
	return inc
}

func checkMember(m Member) error {
	if err := CheckID("node_id", m.ID); err != nil {
		return err
	}
	for _, a := range [...]struct{ field, value string }{
		{"address", m.Address}, {"http_address", m.HTTP}, {"native_address", m.Native}, {"software", m.Software},
	} {
		if len(a.value) > MaxAddress {
			return errs.Invalid(a.field, a.value, "at most 262 bytes")
		}
	}
	return nil
}

// CheckID tells whether id can be a node id: 1 to 63 bytes of a-z, 0-9, "-",
// "_" and ".", beginning with a letter or a digit.
func CheckID(field, id string) error {
	const want = `1 to 63 of a-z, 0-9, "-", "_" and ".", beginning with a letter or digit`
	if id == "" || len(id) > MaxID {
		return errs.Invalid(field, id, want)
	}
	for i := range len(id) {
		c := id[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '-' && c != '_' && c != '.') {
			return errs.Invalid(field, id, want)
		}
	}
	return nil
}

func checkNotRemoved(tx *state.Tx, m Member) error {
	if _, ok := tx.Get(Removed, tombKey(m.ID, m.Incarnation)); ok {
		return errs.New(errs.IdentityRefused,
			"node %s with incarnation %s was removed from the cluster; it can only come back with an empty data folder", m.ID, m.Incarnation)
	}
	return nil
}

// checkSame refuses another life of a known node. An incarnation that the table
// does not have yet matches any.
func checkSame(have Member, inc Incarnation) error {
	if have.Incarnation.IsZero() || have.Incarnation == inc {
		return nil
	}
	return errs.New(errs.IdentityRefused,
		"the cluster knows node %s by incarnation %s, not %s", have.ID, have.Incarnation, inc)
}

func get(tx *state.Tx, id string) (Member, error) {
	row, ok := tx.Get(Members, []byte(id))
	if !ok {
		return Member{}, errs.New(errs.NotFound, "the cluster has no member %q", id)
	}
	return decodeMember(row)
}

func each(tx *state.Tx, fn func(Member)) (err error) {
	tx.Scan(Members, nil, nil, func(_, row []byte) bool {
		var m Member
		if m, err = decodeMember(row); err != nil {
			return false
		}
		fn(m)
		return true
	})
	return err
}

// merge takes over what a node says of itself; an empty value keeps what is known.
func merge(have, m Member) Member {
	next := have
	if next.Incarnation.IsZero() {
		next.Incarnation = m.Incarnation
	}
	for _, f := range [...]struct{ to, from *string }{
		{&next.Address, &m.Address}, {&next.HTTP, &m.HTTP}, {&next.Native, &m.Native}, {&next.Software, &m.Software},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if m.Version != 0 {
		next.Version = m.Version
	}
	return next
}

func write(tx *state.Tx, have, next Member) {
	if next != have {
		tx.Put(Members, []byte(next.ID), next.encode())
	}
}
