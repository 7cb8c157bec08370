// Package table is the replicated part of the etcd door: its users, roles and
// permissions, the client addresses of the members, and the members that were added
// under a number and are to join.
//
// It owns the bytes of rows and payloads, which are only ever appended to.
// Appliers are pure: they read the transaction, the command and constants, check
// first and write last. The index answers permission questions from memory, as part
// of each read view. Only package etcd imports it.
package table

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"nekoq/services/command"
	"nekoq/services/errs"
	"nekoq/services/state"
)

// The tables.
const (
	Users     state.TableID = 0xb0 // name → User, JSON
	Roles     state.TableID = 0xb1 // name → Role, JSON
	Meta      state.TableID = 0xb2 // "auth" → AuthMeta, JSON
	Members   state.TableID = 0xb3 // node id → Member, JSON
	Announced state.TableID = 0xb4 // number, 8 bytes → Expected, JSON
)

// The commands. Their result is an Outcome and, for auth, its revision.
const (
	KindEnable           command.Kind = 0x20a0 // Enable, JSON
	KindDisable          command.Kind = 0x20a1
	KindUserAdd          command.Kind = 0x20a2 // User, JSON
	KindUserDelete       command.Kind = 0x20a3 // Name, JSON
	KindUserPassword     command.Kind = 0x20a4 // User, JSON: name and hash
	KindUserGrant        command.Kind = 0x20a5 // Grant, JSON
	KindUserRevoke       command.Kind = 0x20a6 // Grant, JSON
	KindRoleAdd          command.Kind = 0x20a7 // Name, JSON
	KindRoleDelete       command.Kind = 0x20a8 // Name, JSON
	KindPermissionGrant  command.Kind = 0x20a9 // Permit, JSON
	KindPermissionRevoke command.Kind = 0x20aa // Permit, JSON
	KindMember           command.Kind = 0x20b0 // Member, JSON
	KindGuard            command.Kind = 0x20b1 // a command.Guard: auth revision, 8 bytes
	KindMemberAdd        command.Kind = 0x20b2 // Expected, JSON: number, addresses, learner
	KindMemberUpdate     command.Kind = 0x20b3 // Expected, JSON: number, addresses
	KindMemberStart      command.Kind = 0x20b4 // Expected, JSON: number, node, joined
	KindMemberForget     command.Kind = 0x20b5 // Expected, JSON: number, node, joined
)

// Root is the name of the user and of the role that may do everything.
const Root = "root"

// User is a user. A user without password logs in with no password at all, so not
// through this door.
type User struct {
	Name       string   `json:"name"`
	Hash       []byte   `json:"hash,omitempty"` // bcrypt
	NoPassword bool     `json:"no_password,omitempty"`
	Roles      []string `json:"roles,omitempty"` // sorted
	// TokensFrom is the auth revision below which tokens of this user are void.
	TokensFrom uint64 `json:"tokens_from,omitempty"`
}

// Role is a named list of permissions, sorted by key.
type Role struct {
	Name        string       `json:"name"`
	Permissions []Permission `json:"permissions,omitempty"`
}

// The rights of a permission.
const (
	Read      byte = 0
	Write     byte = 1
	ReadWrite byte = 2
)

// Permission gives a right on a key (End empty), on every key from Key on
// (End = "\x00"), or on Key <= k < End.
type Permission struct {
	Right byte   `json:"right"`
	Key   []byte `json:"key"`
	End   []byte `json:"end,omitempty"`
}

// AuthMeta is the state of auth as a whole.
type AuthMeta struct {
	Enabled  bool   `json:"enabled,omitempty"`
	Revision uint64 `json:"revision"`
	Secret   []byte `json:"secret,omitempty"` // signs tokens; new with each enabling
}

// Member is where clients reach a member's etcd door.
type Member struct {
	ID   string   `json:"id"`
	URLs []string `json:"urls,omitempty"`
}

// The payloads.
type (
	// Enable carries the secret that signs tokens from now on.
	Enable struct {
		Secret []byte `json:"secret"`
	}
	// Name names a user or a role.
	Name struct {
		Name string `json:"name"`
	}
	// Grant gives a role to a user, or takes it.
	Grant struct {
		User string `json:"user"`
		Role string `json:"role"`
	}
	// Permit gives a permission to a role, or takes it.
	Permit struct {
		Role       string     `json:"role"`
		Permission Permission `json:"permission"`
	}
)

// Outcome is how a command ended. Whatever is not OK wrote nothing.
type Outcome byte

// The outcomes.
const (
	OK Outcome = iota
	UserExists
	UserNotFound
	RoleExists
	RoleNotFound
	RoleNotGranted
	PermissionNotGranted
	InvalidManagement
	RootUserMissing
	RootRoleMissing
	MemberExists
	MemberNotFound
	MemberStarted  // a node has joined as the member, or another one than the command names
	MemberInvalid  // its number, addresses or node are none that there can be
	AddressTaken   // another member that is to join has the address
	TooManyMembers // MaxExpected are there
)

// Register declares tables, appliers and index.
func Register(reg *state.Registry) {
	reg.Table(Users, "etcd_users")
	reg.Table(Roles, "etcd_roles")
	reg.Table(Meta, "etcd_meta")
	reg.Table(Members, "etcd_members")
	reg.Table(Announced, "etcd_announced")
	for _, k := range []struct {
		kind  command.Kind
		name  string
		apply applier
	}{
		{KindEnable, "etcd_auth_enable", of("enable", applyEnable)},
		{KindDisable, "etcd_auth_disable", of("disable", applyDisable)},
		{KindUserAdd, "etcd_user_add", of("user", applyUserAdd)},
		{KindUserDelete, "etcd_user_delete", of("user", applyUserDelete)},
		{KindUserPassword, "etcd_user_password", of("user", applyUserPassword)},
		{KindUserGrant, "etcd_user_grant", of("grant", applyUserGrant)},
		{KindUserRevoke, "etcd_user_revoke", of("revoke", applyUserRevoke)},
		{KindRoleAdd, "etcd_role_add", of("role", applyRoleAdd)},
		{KindRoleDelete, "etcd_role_delete", of("role", applyRoleDelete)},
		{KindPermissionGrant, "etcd_permission_grant", of("permission", applyPermissionGrant)},
		{KindPermissionRevoke, "etcd_permission_revoke", of("permission", applyPermissionRevoke)},
		{KindMember, "etcd_member", applyMember},
		{KindMemberAdd, "etcd_member_add", applyMemberAdd},
		{KindMemberUpdate, "etcd_member_update", ofMember("member to update", (*Expected).hasURLs, applyMemberUpdate)},
		{KindMemberStart, "etcd_member_start", ofMember("member that joined", (*Expected).hasNode, applyMemberStart)},
		{KindMemberForget, "etcd_member_forget", ofMember("member to forget", (*Expected).whatever, applyMemberForget)},
	} {
		reg.Handle(k.kind, k.name, 1, func(tx *state.Tx, cmd *command.Command) ([]byte, error) {
			out, err := k.apply(tx, cmd.Payload)
			if err != nil {
				return nil, err
			}
			m, err := ReadMeta(tx)
			if err != nil {
				return nil, err
			}
			return binary.BigEndian.AppendUint64([]byte{byte(out)}, m.Revision), nil
		})
	}
	reg.HandleGuard(KindGuard, "etcd_guarded", 1, unchanged)
	reg.AddIndex(IndexName, []state.TableID{Users, Roles, Meta, Members, Announced}, func() state.Index { return &index{} })
	reg.Current(IndexName)
}

// applier carries a command out.
type applier func(tx *state.Tx, payload []byte) (Outcome, error)

// of makes the applier of a command that changes auth: apply gets its payload and
// the state of auth as it is.
func of[P any](what string, apply func(tx *state.Tx, m AuthMeta, p *P) (Outcome, error)) applier {
	return func(tx *state.Tx, payload []byte) (Outcome, error) {
		var p P
		if err := decode(what, payload, &p); err != nil {
			return 0, err
		}
		m, err := ReadMeta(tx)
		if err != nil {
			return 0, err
		}
		return apply(tx, m, &p)
	}
}

// Guard is the condition that auth is on and that no user, role or permission has
// changed since a revision.
func Guard(revision uint64) *command.Guard {
	return &command.Guard{Kind: KindGuard, Condition: binary.BigEndian.AppendUint64(nil, revision)}
}

// off stands for the revision in a guard that demands that auth is off.
const off = ^uint64(0)

// GuardOff is the condition that auth is off.
func GuardOff() *command.Guard { return Guard(off) }

// changedField names the error of a guard that does not hold.
const changedField = "auth_revision"

func unchanged(tx *state.Tx, condition []byte) error {
	if len(condition) != 8 {
		return fmt.Errorf("etcd: a guard of %d bytes", len(condition))
	}
	m, err := ReadMeta(tx)
	if err != nil {
		return err
	}
	want := binary.BigEndian.Uint64(condition)
	if holds := m.Enabled && m.Revision == want || !m.Enabled && want == off; !holds {
		return errs.New(errs.Conflict, "users, roles or permissions have changed while the request was under way").
			With(errs.Detail{Field: changedField, Value: strconv.FormatUint(want, 10), Limit: strconv.FormatUint(m.Revision, 10)})
	}
	return nil
}

// Changed tells whether an error is that of a guard that does not hold.
func Changed(err error) bool {
	e, ok := errors.AsType[*errs.Error](err)
	return ok && e.Code == errs.Conflict && len(e.Details) > 0 && e.Details[0].Field == changedField
}

// DecodeResult reads the result of a command.
func DecodeResult(b []byte) (out Outcome, authRevision uint64, err error) {
	if len(b) != 9 {
		return 0, 0, fmt.Errorf("etcd: a result of %d bytes", len(b))
	}
	return Outcome(b[0]), binary.BigEndian.Uint64(b[1:]), nil
}

// Encode cannot fail for this package's structs.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// decode fails with a plain error, which halts the node: what cannot be decoded
// was never written by this program.
func decode(what string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("etcd: %s: %w", what, err)
	}
	return nil
}

var metaKey = []byte("auth")

// FirstRevision is the auth revision of a store in which nothing was changed yet.
const FirstRevision = 1

// ReadMeta reads the state of auth.
func ReadMeta(r state.Reader) (AuthMeta, error) {
	m := AuthMeta{Revision: FirstRevision}
	if b, ok := r.Get(Meta, metaKey); ok {
		if err := decode("auth", b, &m); err != nil {
			return m, err
		}
	}
	return m, nil
}
