package table

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"nekoq/services/command"
	"nekoq/services/state"
	"nekoq/services/testkit/replay"
)

func commands(n int) []command.Command {
	r := rand.New(rand.NewPCG(1, 2))
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	member := func() Expected {
		urls := [][]string{nil, {"http://a:1"}, {"http://b:1"}, {"http://c:1", "http://d:1"}, {"https://a:1"}}[r.IntN(5)]
		joined := r.Uint64N(2)
		return Expected{Number: r.Uint64N(5), URLs: urls, Learner: r.IntN(2) == 0, Node: []string{"", "n1"}[joined], Joined: joined}
	}
	var out []command.Command
	for range n {
		user, role := pick("root", "a", "b", ""), pick("root", "r", "s")
		key := []byte(pick("a", "b", "c"))
		end := [][]byte{nil, {0}, []byte("d")}[r.IntN(3)]
		permit := Permit{Role: role, Permission: Permission{Right: byte(r.IntN(3)), Key: key, End: end}}
		kinds := []struct {
			kind    command.Kind
			payload any
		}{
			{KindEnable, Enable{Secret: []byte("s")}},
			{KindDisable, struct{}{}},
			{KindUserAdd, User{Name: user, Hash: []byte("h"), NoPassword: r.IntN(2) == 0}},
			{KindUserDelete, Name{user}},
			{KindUserPassword, User{Name: user, Hash: []byte("h2")}},
			{KindUserGrant, Grant{user, role}},
			{KindUserGrant, Grant{user, role}},
			{KindUserRevoke, Grant{user, role}},
			{KindRoleAdd, Name{role}},
			{KindRoleAdd, Name{role}},
			{KindRoleDelete, Name{role}},
			{KindPermissionGrant, permit},
			{KindPermissionGrant, permit},
			{KindPermissionRevoke, permit},
			{KindMember, Member{ID: pick("n1", "n2"), URLs: [][]string{nil, {"http://x"}, {"http://y"}}[r.IntN(3)]}},
			{KindMemberAdd, member()},
			{KindMemberAdd, member()},
			{KindMemberUpdate, member()},
			{KindMemberStart, member()},
			{KindMemberForget, member()},
		}
		k := kinds[r.IntN(len(kinds))]
		now = now.Add(time.Second)
		c := command.Command{Kind: k.kind, Time: now.UnixNano(), Payload: Encode(k.payload)}
		if r.IntN(4) == 0 {
			c = Guard(uint64(r.IntN(600))).Over(c)
		}
		out = append(out, c)
	}
	return out
}

// beginning switches auth on and has a guard that holds and one that does not.
func beginning() []command.Command {
	role := func(name string) command.Command {
		return command.Command{Kind: KindRoleAdd, Payload: Encode(Name{name})}
	}
	return []command.Command{
		{Kind: KindUserAdd, Payload: Encode(User{Name: Root})},
		{Kind: KindUserGrant, Payload: Encode(Grant{Root, Root})},
		Guard(FirstRevision + 2).Over(role("early")), // auth is off
		{Kind: KindEnable, Payload: Encode(Enable{Secret: []byte("s")})},
		Guard(FirstRevision + 2).Over(role("x")),
		Guard(FirstRevision + 2).Over(role("late")),
	}
}

// The same log gives the same state, and what is refused writes nothing.
func TestReplay(t *testing.T) {
	log := append(beginning(), commands(600)...)
	got := replay.Check(t, Register, log)
	seen := map[Outcome]int{}
	held, changed := 0, 0
	for i, r := range got.Results {
		if r.Err != nil && Changed(r.Err) {
			if changed++; r.Changed {
				t.Errorf("command %d was refused by its guard and changed something", i)
			}
			continue
		}
		if log[i].Kind == KindGuard {
			held++
		}
		out, _, err := DecodeResult(r.Data)
		if err != nil || r.Err != nil {
			t.Fatalf("command %d: %v %v", i, err, r.Err)
		}
		if out != OK && r.Changed {
			t.Errorf("command %d was refused (%d) and changed something", i, out)
		}
		seen[out]++
	}
	if held == 0 || got.Results[4].Err != nil || got.Results[2].Err == nil || got.Results[5].Err == nil {
		t.Errorf("%d guards held and %d did not: %v %v %v", held, changed, got.Results[2].Err, got.Results[4].Err, got.Results[5].Err)
	}
	for _, o := range []Outcome{OK, UserExists, UserNotFound, RoleExists, RoleNotFound, RoleNotGranted, PermissionNotGranted, InvalidManagement, RootUserMissing, RootRoleMissing, MemberExists, MemberNotFound, MemberStarted, MemberInvalid, AddressTaken} {
		if seen[o] == 0 {
			t.Errorf("no command ended with %d: %v", o, seen)
		}
	}
}

// The index that followed every change is the one that is made anew.
func TestIndexRebuiltEqualsIncremental(t *testing.T) {
	reg := state.NewRegistry()
	Register(reg)
	m, err := state.Open(state.Options{Path: filepath.Join(t.TempDir(), "state.db"), Registry: reg, Mode: state.Volatile})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i, c := range commands(300) {
		if _, err := m.ApplyEntry(uint64(i+1), 1, command.AppendBatch(nil, []command.Command{c})); err != nil {
			t.Fatal(err)
		}
		v := m.View()
		x := &index{}
		x.Rebuild(v)
		got, want := v.Frozen(IndexName).(*Auth), x.Freeze().(*Auth)
		if a, b := describe(got), describe(want); a != b {
			t.Fatalf("after command %d:\nfollowed %s\nrebuilt  %s", i, a, b)
		}
		v.Release()
	}
}

func describe(a *Auth) string {
	s := fmt.Sprintf("%+v %v %v %v %+v", a.AuthMeta, a.UserNames(), a.RoleNames(), a.members, a.expected)
	for _, n := range a.UserNames() {
		u, _ := a.User(n)
		s += fmt.Sprintf(" %s:%+v", n, *u)
	}
	for _, n := range a.RoleNames() {
		r, _ := a.Role(n)
		s += fmt.Sprintf(" %+v", r)
	}
	return s
}

// Rights over spans agree with asking key by key.
func TestRights(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	letters := "abcdefgh"
	for range 300 {
		var perms []Permission
		for range r.IntN(4) {
			a, b := r.IntN(8), r.IntN(8)
			p := Permission{Right: Read, Key: []byte(letters[a : a+1])}
			switch r.IntN(3) {
			case 0:
				p.End = []byte{0}
			case 1:
				if b <= a {
					continue
				}
				p.End = []byte(letters[b : b+1])
			}
			perms = append(perms, p)
		}
		x := &index{users: map[string]User{"u": {Name: "u", Roles: []string{"r"}}}, roles: map[string]Role{"r": {Name: "r", Permissions: perms}}}
		u, _ := x.Freeze().(*Auth).User("u")
		one := func(k []byte) bool {
			for _, p := range perms {
				if bytes.Equal(p.Key, k) || len(p.End) > 0 && bytes.Compare(p.Key, k) <= 0 && (p.End[0] == 0 || bytes.Compare(k, p.End) < 0) {
					return true
				}
			}
			return false
		}
		for a := range letters {
			k := []byte(letters[a : a+1])
			if u.MayRead(k, nil) != one(k) {
				t.Fatalf("%v: key %s", perms, k)
			}
			if u.MayWrite(k, nil) {
				t.Fatalf("%v: may write %s", perms, k)
			}
			// "a" followed by anything stands between "a" and "b".
			if u.MayRead(k, append(bytes.Clone(k), 0)) != one(k) {
				t.Fatalf("%v: the span of %s alone", perms, k)
			}
			if open := u.MayRead(k, []byte{0}); open && !one([]byte("zzz")) {
				t.Fatalf("%v: from %s on", perms, k)
			}
			if u.MayRead(k, []byte("zz")) && !one([]byte("z")) {
				t.Fatalf("%v: %s to zz", perms, k)
			}
		}
	}
}
