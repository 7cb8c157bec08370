package table

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"nekoq/services/command"
	"nekoq/services/state"
)

// machine applies single commands to a state of its own.
type machine struct {
	*testing.T
	m     *state.Machine
	index uint64
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	reg := state.NewRegistry()
	Register(reg)
	m, err := state.Open(state.Options{Path: filepath.Join(t.TempDir(), "state.db"), Registry: reg, Mode: state.Volatile})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return &machine{T: t, m: m}
}

// does carries a command out and wants an outcome.
func (m *machine) does(kind command.Kind, p Expected, want Outcome) {
	m.Helper()
	m.index++
	res, err := m.m.ApplyEntry(m.index, 1, command.AppendBatch(nil, []command.Command{{Kind: kind, Payload: Encode(p)}}))
	if err != nil {
		m.Fatal(err)
	}
	out, _, err := DecodeResult(res[0].Data)
	if err != nil || res[0].Err != nil || out != want {
		m.Errorf("%#x of %+v: outcome %d, want %d; %v %v", kind, p, out, want, err, res[0].Err)
	}
	if out != OK && res[0].Changed {
		m.Errorf("%#x of %+v was refused and changed something", kind, p)
	}
}

func (m *machine) expected() []Expected { return m.m.Current(IndexName).(*Auth).Expected() }

func TestExpectedMember(t *testing.T) {
	m := newMachine(t)
	at := func(urls ...string) []string { return urls }
	m.does(KindMemberAdd, Expected{Number: 9, URLs: at("http://a:1", "http://b:1"), Learner: true, Node: "n9", Joined: 7}, OK)
	first := m.expected()[0]
	if want := (Expected{Number: 9, URLs: at("http://a:1", "http://b:1"), Learner: true, Revision: 1}); !reflect.DeepEqual(first, want) {
		t.Errorf("%+v, want %+v: who joined is not the adder's to say", first, want)
	}
	m.does(KindMemberAdd, Expected{Number: 9, URLs: at("http://c:1")}, MemberExists)
	m.does(KindMemberAdd, Expected{Number: 5, URLs: at("https://b:1")}, AddressTaken)
	m.does(KindMemberAdd, Expected{Number: 5, URLs: at("http://c:1")}, OK)
	if e := m.expected(); len(e) != 2 || e[0].Number != 5 {
		t.Errorf("not by number: %+v", e)
	}

	m.does(KindMemberUpdate, Expected{Number: 5, URLs: at("http://a:1")}, AddressTaken)
	m.does(KindMemberUpdate, Expected{Number: 6, URLs: at("http://d:1")}, MemberNotFound)
	m.does(KindMemberUpdate, Expected{Number: 5, URLs: at("http://c:1"), Learner: true}, OK)
	if e := m.expected()[0]; e.Revision != 2 || e.Learner {
		t.Errorf("the same addresses are no change: %+v", e)
	}
	m.does(KindMemberUpdate, Expected{Number: 5, URLs: at("https://c:1")}, OK)
	if e := m.expected()[0]; e.Revision != 3 || e.URLs[0] != "https://c:1" {
		t.Errorf("nobody who joined before the new address is meant: %+v", e)
	}

	m.does(KindMemberStart, Expected{Number: 6, Node: "n4", Joined: 8}, MemberNotFound)
	m.does(KindMemberStart, Expected{Number: 5, Joined: 8}, MemberInvalid)
	m.does(KindMemberStart, Expected{Number: 5, Node: "n4"}, MemberInvalid)
	m.does(KindMemberStart, Expected{Number: 5, Node: "n4", Joined: 8}, OK)
	m.does(KindMemberStart, Expected{Number: 5, Node: "n4", Joined: 8}, OK)
	m.does(KindMemberStart, Expected{Number: 5, Node: "n4", Joined: 9}, MemberStarted)
	m.does(KindMemberStart, Expected{Number: 9, Node: "n4", Joined: 8}, MemberExists)
	m.does(KindMemberUpdate, Expected{Number: 5, URLs: at("http://e:1")}, MemberStarted)
	// Where a node that runs is now stands in the member table.
	m.does(KindMemberAdd, Expected{Number: 6, URLs: at("http://c:1")}, OK)

	m.does(KindMemberForget, Expected{Number: 5}, MemberStarted)
	m.does(KindMemberForget, Expected{Number: 5, Node: "n4", Joined: 9}, MemberStarted)
	m.does(KindMemberForget, Expected{Number: 5, Node: "n4", Joined: 8}, OK)
	m.does(KindMemberForget, Expected{Number: 5, Node: "n4", Joined: 8}, MemberNotFound)
	m.does(KindMemberForget, Expected{Number: 9}, OK)
	if e := m.expected(); len(e) != 1 || e[0].Number != 6 {
		t.Errorf("%+v", e)
	}
}

func TestExpectedMembersAreBounded(t *testing.T) {
	m := newMachine(t)
	many := make([]string, MaxURLs+1)
	for i := range many {
		many[i] = fmt.Sprintf("http://h%d:1", i)
	}
	long := "http://" + strings.Repeat("h", MaxURL-len("http://")-2) + ":1"
	for _, urls := range [][]string{
		nil,
		{""},
		{"a:1"},
		{"ftp://a:1"},
		{"http://"},
		{"http://b:1", "http://a:1"},
		{"http://a:1", "http://a:1"},
		{"http://a:1", "https://a:1"},
		many,
		{long + "1"},
	} {
		m.does(KindMemberAdd, Expected{Number: 1, URLs: urls}, MemberInvalid)
		m.does(KindMemberUpdate, Expected{Number: 1, URLs: urls}, MemberInvalid)
	}
	m.does(KindMemberAdd, Expected{URLs: []string{"http://a:1"}}, MemberInvalid)
	m.does(KindMemberAdd, Expected{Number: 1, URLs: many[:MaxURLs]}, OK)
	m.does(KindMemberAdd, Expected{Number: 2, URLs: []string{long}}, OK)
	for n := uint64(3); n <= MaxExpected; n++ {
		m.does(KindMemberAdd, Expected{Number: n, URLs: []string{fmt.Sprintf("http://n%d:1", n)}}, OK)
	}
	m.does(KindMemberAdd, Expected{Number: 99, URLs: []string{"http://last:1"}}, TooManyMembers)
	m.does(KindMemberForget, Expected{Number: 1}, OK)
	m.does(KindMemberAdd, Expected{Number: 99, URLs: []string{"http://last:1"}}, OK)
}

// What this program never wrote stops the node.
func TestBrokenMemberCommandHalts(t *testing.T) {
	for _, k := range []command.Kind{KindMemberAdd, KindMemberUpdate, KindMemberStart, KindMemberForget} {
		m := newMachine(t)
		if _, err := m.m.ApplyEntry(1, 1, command.AppendBatch(nil, []command.Command{{Kind: k, Payload: []byte("{")}})); err == nil {
			t.Errorf("%#x: no error", k)
		}
	}
}
