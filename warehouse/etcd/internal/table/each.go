package table

import "nekoq/services/state"

// EachUser calls fn with the users, in the order of their names, until it returns an
// error.
func EachUser(r state.Reader, fn func(u *User) error) error { return each(r, Users, "user", fn) }

// EachRole is EachUser for roles.
func EachRole(r state.Reader, fn func(r *Role) error) error { return each(r, Roles, "role", fn) }

func each[R any](r state.Reader, t state.TableID, what string, fn func(row *R) error) (err error) {
	r.Scan(t, nil, nil, func(_, v []byte) bool {
		var row R
		if err = decode(what, v, &row); err == nil {
			err = fn(&row)
		}
		return err == nil
	})
	return err
}
