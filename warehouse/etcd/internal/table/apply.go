package table

import (
	"bytes"
	"slices"

	"nekoq/services/state"
)

// bump writes the meta row with the next auth revision.
func bump(tx *state.Tx, m AuthMeta) uint64 {
	m.Revision++
	tx.Put(Meta, metaKey, Encode(m))
	return m.Revision
}

func getUser(tx *state.Tx, name string) (u User, ok bool, err error) {
	b, ok := tx.Get(Users, []byte(name))
	if !ok || name == "" {
		return u, false, nil
	}
	return u, true, decode("user", b, &u)
}

func getRole(tx *state.Tx, name string) (r Role, ok bool, err error) {
	b, ok := tx.Get(Roles, []byte(name))
	if !ok || name == "" {
		return r, false, nil
	}
	return r, true, decode("role", b, &r)
}

func putUser(tx *state.Tx, u User) { tx.Put(Users, []byte(u.Name), Encode(u)) }
func putRole(tx *state.Tx, r Role) { tx.Put(Roles, []byte(r.Name), Encode(r)) }

// MaxName is the most bytes of a user's or a role's name. It changes outcomes, so it
// is a constant.
const MaxName = 1024

func validName(n string) bool { return n != "" && len(n) <= MaxName }

func applyEnable(tx *state.Tx, m AuthMeta, p *Enable) (Outcome, error) {
	if m.Enabled {
		return OK, nil
	}
	u, ok, err := getUser(tx, Root)
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return RootUserMissing, nil
	case !slices.Contains(u.Roles, Root):
		return RootRoleMissing, nil
	}
	m.Enabled, m.Secret = true, p.Secret
	tx.Put(Meta, metaKey, Encode(m))
	return OK, nil
}

func applyDisable(tx *state.Tx, m AuthMeta, _ *struct{}) (Outcome, error) {
	if !m.Enabled {
		return OK, nil
	}
	m.Enabled, m.Secret = false, nil
	bump(tx, m)
	return OK, nil
}

func applyUserAdd(tx *state.Tx, m AuthMeta, p *User) (Outcome, error) {
	if !validName(p.Name) {
		return InvalidManagement, nil
	}
	if _, ok, err := getUser(tx, p.Name); err != nil || ok {
		return UserExists, err
	}
	p.Roles = nil
	p.TokensFrom = bump(tx, m)
	putUser(tx, *p)
	return OK, nil
}

func applyUserDelete(tx *state.Tx, m AuthMeta, p *Name) (Outcome, error) {
	if m.Enabled && p.Name == Root {
		return InvalidManagement, nil
	}
	if _, ok, err := getUser(tx, p.Name); err != nil || !ok {
		return UserNotFound, err
	}
	bump(tx, m)
	tx.Delete(Users, []byte(p.Name))
	return OK, nil
}

func applyUserPassword(tx *state.Tx, m AuthMeta, p *User) (Outcome, error) {
	return editUser(tx, m, p.Name, func(u *User) (Outcome, bool, error) {
		if !u.NoPassword {
			u.Hash = p.Hash
		}
		u.TokensFrom = m.Revision + 1
		return OK, true, nil
	})
}

// editUser changes a user that must be there. edit says how it ended, and whether it
// changed anything.
func editUser(tx *state.Tx, m AuthMeta, name string, edit func(u *User) (Outcome, bool, error)) (Outcome, error) {
	u, ok, err := getUser(tx, name)
	if err != nil || !ok {
		return UserNotFound, err
	}
	out, changed, err := edit(&u)
	if changed && err == nil {
		bump(tx, m)
		putUser(tx, u)
	}
	return out, err
}

func applyUserGrant(tx *state.Tx, m AuthMeta, p *Grant) (Outcome, error) {
	return editUser(tx, m, p.User, func(u *User) (Outcome, bool, error) {
		if p.Role != Root { // the root role exists without a row
			if _, ok, err := getRole(tx, p.Role); err != nil || !ok {
				return RoleNotFound, false, err
			}
		}
		at, has := slices.BinarySearch(u.Roles, p.Role)
		if !has {
			u.Roles = slices.Insert(u.Roles, at, p.Role)
		}
		return OK, !has, nil
	})
}

func applyUserRevoke(tx *state.Tx, m AuthMeta, p *Grant) (Outcome, error) {
	if m.Enabled && p.User == Root && p.Role == Root {
		return InvalidManagement, nil
	}
	return editUser(tx, m, p.User, func(u *User) (Outcome, bool, error) {
		at, has := slices.BinarySearch(u.Roles, p.Role)
		if !has {
			return RoleNotGranted, false, nil
		}
		u.Roles = slices.Delete(u.Roles, at, at+1)
		return OK, true, nil
	})
}

func applyRoleAdd(tx *state.Tx, m AuthMeta, p *Name) (Outcome, error) {
	if !validName(p.Name) {
		return InvalidManagement, nil
	}
	if _, ok, err := getRole(tx, p.Name); err != nil || ok {
		return RoleExists, err
	}
	bump(tx, m)
	putRole(tx, Role{Name: p.Name})
	return OK, nil
}

func applyRoleDelete(tx *state.Tx, m AuthMeta, p *Name) (Outcome, error) {
	if m.Enabled && p.Name == Root {
		return InvalidManagement, nil
	}
	if _, ok, err := getRole(tx, p.Name); err != nil || !ok {
		return RoleNotFound, err
	}
	var holders []User
	var err error
	tx.Scan(Users, nil, nil, func(_, v []byte) bool {
		var u User
		if err = decode("user", v, &u); err != nil {
			return false
		}
		if slices.Contains(u.Roles, p.Name) {
			holders = append(holders, u)
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	bump(tx, m)
	tx.Delete(Roles, []byte(p.Name))
	for _, u := range holders {
		u.Roles = slices.DeleteFunc(u.Roles, func(r string) bool { return r == p.Name })
		putUser(tx, u)
	}
	return OK, nil
}

func applyPermissionGrant(tx *state.Tx, m AuthMeta, p *Permit) (Outcome, error) {
	return editPermission(tx, m, p, func(r *Role, at int, has bool) Outcome {
		if has {
			r.Permissions[at].Right = p.Permission.Right
		} else {
			r.Permissions = slices.Insert(r.Permissions, at, p.Permission)
		}
		return OK
	})
}

func applyPermissionRevoke(tx *state.Tx, m AuthMeta, p *Permit) (Outcome, error) {
	return editPermission(tx, m, p, func(r *Role, at int, has bool) Outcome {
		if !has {
			return PermissionNotGranted
		}
		r.Permissions = slices.Delete(r.Permissions, at, at+1)
		return OK
	})
}

// editPermission changes a permission of a role that must be there: at is where it
// stands, or would.
func editPermission(tx *state.Tx, m AuthMeta, p *Permit, edit func(r *Role, at int, has bool) Outcome) (Outcome, error) {
	r, ok, err := getRole(tx, p.Role)
	if err != nil || !ok {
		return RoleNotFound, err
	}
	at, has := slices.BinarySearchFunc(r.Permissions, p.Permission, comparePermissions)
	out := edit(&r, at, has)
	if out == OK {
		bump(tx, m)
		putRole(tx, r)
	}
	return out, nil
}

func comparePermissions(a, b Permission) int {
	if c := bytes.Compare(a.Key, b.Key); c != 0 {
		return c
	}
	return bytes.Compare(a.End, b.End)
}
