package table

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"nekoq/services/state"
)

// IndexName is under what views have the Auth.
const IndexName = "etcd_auth"

// Auth is users, roles and members at one revision: immutable.
type Auth struct {
	AuthMeta
	users    map[string]*Rights
	roles    map[string]Role
	members  map[string][]string
	expected []Expected // by number
}

// Rights are what a user may do.
type Rights struct {
	User
	Root        bool
	read, write []span // sorted, merged
}

// span is start <= key < end; end nil is no bound.
type span struct{ start, end []byte }

// User gives a user's rights.
func (a *Auth) User(name string) (*Rights, bool) {
	u, ok := a.users[name]
	return u, ok
}

// Role gives a role.
func (a *Auth) Role(name string) (Role, bool) {
	r, ok := a.roles[name]
	return r, ok
}

// UserNames and RoleNames are sorted.
func (a *Auth) UserNames() []string { return slices.Sorted(maps.Keys(a.users)) }

// RoleNames are sorted.
func (a *Auth) RoleNames() []string { return slices.Sorted(maps.Keys(a.roles)) }

// ClientURLs is where a member's etcd door is reached; nil when it has not told.
func (a *Auth) ClientURLs(node string) []string { return a.members[node] }

// Told are the nodes that have told where their doors are, sorted.
func (a *Auth) Told() []string { return slices.Sorted(maps.Keys(a.members)) }

// Expected are the members that were added under a number, by number. The caller
// changes nothing in them.
func (a *Auth) Expected() []Expected { return a.expected }

// MayRead and MayWrite tell whether the whole span [key, end) is allowed: end empty
// is the key alone, "\x00" every key from key on.
func (r *Rights) MayRead(key, end []byte) bool { return r.Root || covers(r.read, key, end) }

// MayWrite is MayRead for writes.
func (r *Rights) MayWrite(key, end []byte) bool { return r.Root || covers(r.write, key, end) }

func toSpan(key, end []byte) span {
	switch {
	case len(end) == 0:
		return span{key, append(slices.Clone(key), 0)}
	case len(end) == 1 && end[0] == 0:
		return span{key, nil}
	}
	return span{key, end}
}

// covers relies on the spans being merged: what is allowed in two pieces that touch
// is one span.
func covers(spans []span, key, end []byte) bool {
	at, exact := slices.BinarySearchFunc(spans, key, func(s span, k []byte) int { return bytes.Compare(s.start, k) })
	if !exact {
		at--
	}
	if at < 0 {
		return false
	}
	s := spans[at]
	switch {
	case len(end) == 0:
		return s.end == nil || bytes.Compare(key, s.end) < 0
	case len(end) == 1 && end[0] == 0:
		return s.end == nil
	}
	return s.end == nil || bytes.Compare(end, s.end) <= 0 && bytes.Compare(key, s.end) < 0
}

func merge(in []span) []span {
	slices.SortFunc(in, func(a, b span) int { return bytes.Compare(a.start, b.start) })
	var out []span
	for _, s := range in {
		if s.end != nil && bytes.Compare(s.start, s.end) >= 0 {
			continue // a span that holds nothing
		}
		if n := len(out); n > 0 {
			last := &out[n-1]
			if last.end == nil {
				break
			}
			if bytes.Compare(s.start, last.end) <= 0 {
				if s.end == nil || bytes.Compare(s.end, last.end) > 0 {
					last.end = s.end
				}
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// index keeps the rows; what views see is made anew after a change, which is rare.
type index struct {
	users    map[string]User
	roles    map[string]Role
	members  map[string][]string
	expected map[string]Expected // by the row's key, which sorts as the number does
	meta     AuthMeta
	frozen   *Auth // nil after a change
}

// Rebuild reads all rows.
func (x *index) Rebuild(r state.Reader) {
	*x = index{
		users: map[string]User{}, roles: map[string]Role{}, members: map[string][]string{}, expected: map[string]Expected{},
		meta: AuthMeta{Revision: FirstRevision},
	}
	for _, t := range []state.TableID{Users, Roles, Meta, Members, Announced} {
		r.Scan(t, nil, nil, func(k, v []byte) bool {
			x.Change(t, k, v)
			return true
		})
	}
}

// Change follows one row. A row that cannot be read was refused when it was applied.
func (x *index) Change(t state.TableID, key, value []byte) {
	x.frozen = nil
	switch t {
	case Users:
		follow(x.users, key, value)
	case Roles:
		follow(x.roles, key, value)
	case Meta:
		x.meta = AuthMeta{Revision: FirstRevision}
		if value != nil {
			_ = json.Unmarshal(value, &x.meta)
		}
	case Announced:
		follow(x.expected, key, value)
	case Members:
		delete(x.members, string(key))
		var m Member
		if value != nil && json.Unmarshal(value, &m) == nil {
			x.members[string(key)] = m.URLs
		}
	}
}

func follow[V any](m map[string]V, key, value []byte) {
	delete(m, string(key))
	var v V
	if value != nil && json.Unmarshal(value, &v) == nil {
		m[string(key)] = v
	}
}

// Freeze gives an *Auth.
func (x *index) Freeze() any {
	if x.frozen != nil {
		return x.frozen
	}
	a := &Auth{AuthMeta: x.meta, users: map[string]*Rights{}, roles: maps.Clone(x.roles), members: maps.Clone(x.members)}
	for _, n := range slices.Sorted(maps.Keys(x.users)) {
		a.users[n] = x.rights(x.users[n])
	}
	for _, k := range slices.Sorted(maps.Keys(x.expected)) {
		a.expected = append(a.expected, x.expected[k])
	}
	x.frozen = a
	return a
}

func (x *index) rights(u User) *Rights {
	out := &Rights{User: u, Root: slices.Contains(u.Roles, Root)}
	for _, name := range u.Roles {
		for _, p := range x.roles[name].Permissions {
			s := toSpan(p.Key, p.End)
			if p.Right != Write {
				out.read = append(out.read, s)
			}
			if p.Right != Read {
				out.write = append(out.write, s)
			}
		}
	}
	out.read, out.write = merge(out.read), merge(out.write)
	return out
}
