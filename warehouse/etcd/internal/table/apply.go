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

func applyEnable(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Enable
	if err := decode("enable", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil || m.Enabled {
		return OK, err
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

func applyDisable(tx *state.Tx, _ []byte) (Outcome, error) {
	m, err := ReadMeta(tx)
	if err != nil || !m.Enabled {
		return OK, err
	}
	m.Enabled, m.Secret = false, nil
	bump(tx, m)
	return OK, nil
}

func applyUserAdd(tx *state.Tx, payload []byte) (Outcome, error) {
	var p User
	if err := decode("user", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return 0, err
	}
	if !validName(p.Name) {
		return InvalidManagement, nil
	}
	if _, ok, err := getUser(tx, p.Name); err != nil || ok {
		return UserExists, err
	}
	p.Roles = nil
	p.TokensFrom = bump(tx, m)
	putUser(tx, p)
	return OK, nil
}

func applyUserDelete(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Name
	if err := decode("user", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return 0, err
	}
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

func applyUserPassword(tx *state.Tx, payload []byte) (Outcome, error) {
	var p User
	if err := decode("user", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return 0, err
	}
	u, ok, err := getUser(tx, p.Name)
	if err != nil || !ok {
		return UserNotFound, err
	}
	if !u.NoPassword {
		u.Hash = p.Hash
	}
	u.TokensFrom = bump(tx, m)
	putUser(tx, u)
	return OK, nil
}

func applyUserGrant(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Grant
	if err := decode("grant", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return 0, err
	}
	u, ok, err := getUser(tx, p.User)
	if err != nil || !ok {
		return UserNotFound, err
	}
	if p.Role != Root { // the root role exists without a row
		if _, ok, err := getRole(tx, p.Role); err != nil || !ok {
			return RoleNotFound, err
		}
	}
	at, has := slices.BinarySearch(u.Roles, p.Role)
	if has {
		return OK, nil
	}
	u.Roles = slices.Insert(u.Roles, at, p.Role)
	bump(tx, m)
	putUser(tx, u)
	return OK, nil
}

func applyUserRevoke(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Grant
	if err := decode("revoke", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return 0, err
	}
	if m.Enabled && p.User == Root && p.Role == Root {
		return InvalidManagement, nil
	}
	u, ok, err := getUser(tx, p.User)
	if err != nil || !ok {
		return UserNotFound, err
	}
	at, has := slices.BinarySearch(u.Roles, p.Role)
	if !has {
		return RoleNotGranted, nil
	}
	u.Roles = slices.Delete(u.Roles, at, at+1)
	bump(tx, m)
	putUser(tx, u)
	return OK, nil
}

func applyRoleAdd(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Name
	if err := decode("role", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return 0, err
	}
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

func applyRoleDelete(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Name
	if err := decode("role", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return 0, err
	}
	if m.Enabled && p.Name == Root {
		return InvalidManagement, nil
	}
	if _, ok, err := getRole(tx, p.Name); err != nil || !ok {
		return RoleNotFound, err
	}
	var holders []User
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

func applyPermissionGrant(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Permit
	if err := decode("permission", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return 0, err
	}
	r, ok, err := getRole(tx, p.Role)
	if err != nil || !ok {
		return RoleNotFound, err
	}
	at, has := slices.BinarySearchFunc(r.Permissions, p.Permission, comparePermissions)
	if has {
		r.Permissions[at].Right = p.Permission.Right
	} else {
		r.Permissions = slices.Insert(r.Permissions, at, p.Permission)
	}
	bump(tx, m)
	putRole(tx, r)
	return OK, nil
}

func applyPermissionRevoke(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Permit
	if err := decode("permission", payload, &p); err != nil {
		return 0, err
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return 0, err
	}
	r, ok, err := getRole(tx, p.Role)
	if err != nil || !ok {
		return RoleNotFound, err
	}
	at, has := slices.BinarySearchFunc(r.Permissions, p.Permission, comparePermissions)
	if !has {
		return PermissionNotGranted, nil
	}
	r.Permissions = slices.Delete(r.Permissions, at, at+1)
	bump(tx, m)
	putRole(tx, r)
	return OK, nil
}

func comparePermissions(a, b Permission) int {
	if c := bytes.Compare(a.Key, b.Key); c != 0 {
		return c
	}
	return bytes.Compare(a.End, b.End)
}

// applyMember enters where a member's door is reached; without addresses it takes
// the row out.
func applyMember(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Member
	if err := decode("member", payload, &p); err != nil {
		return 0, err
	}
	if !validName(p.ID) {
		return InvalidManagement, nil
	}
	if len(p.URLs) == 0 {
		tx.Delete(Members, []byte(p.ID))
		return OK, nil
	}
	row := Encode(p)
	if old, ok := tx.Get(Members, []byte(p.ID)); ok && bytes.Equal(old, row) {
		return OK, nil
	}
	tx.Put(Members, []byte(p.ID), row)
	return OK, nil
}
