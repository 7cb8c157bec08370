package table

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"nekoq/services/state"
)

// Limits of members that were added. They change outcomes, so they are constants.
const (
	MaxExpected = 64  // as many as a cluster has members
	MaxURLs     = 8   // of one member
	MaxURL      = 280 // bytes of one: a scheme and an address of 262 bytes, and a spare
)

// Expected is a member that was added under a number. Until a node joins at one of its
// addresses it is one that was never started; then the row keeps the number for as long
// as that node is a member.
type Expected struct {
	Number  uint64   `json:"number"`
	URLs    []string `json:"urls"` // "http://host:port", sorted; each address once
	Learner bool     `json:"learner,omitempty"`
	// Revision is the store revision at which the addresses were written: only a node
	// that joined after it was meant.
	Revision uint64 `json:"revision,omitempty"`
	// Node and Joined tell which node it became, and since which store revision that is
	// a member: a node that was removed and joins anew is another one.
	Node   string `json:"node,omitempty"`
	Joined uint64 `json:"joined,omitempty"`
}

// Started tells whether a node has joined as this member.
func (e *Expected) Started() bool { return e.Node != "" }

// At tells whether the member was announced at an address, host:port.
func (e *Expected) At(address string) bool {
	return slices.ContainsFunc(e.URLs, func(u string) bool { return AddressOf(u) == address })
}

// AddressOf gives the address, host:port, of one of the URLs of an Expected.
func AddressOf(url string) string {
	_, address, _ := strings.Cut(url, "://")
	return address
}

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func getExpected(tx *state.Tx, number uint64) (e Expected, ok bool, err error) {
	b, ok := tx.Get(Announced, numberKey(number))
	if !ok {
		return e, false, nil
	}
	return e, true, decode("expected member", b, &e)
}

func putExpected(tx *state.Tx, e Expected) { tx.Put(Announced, numberKey(e.Number), Encode(e)) }

// eachExpected gives the rows by number until f says that it has enough.
func eachExpected(tx *state.Tx, f func(e *Expected) bool) (err error) {
	tx.Scan(Announced, nil, nil, func(_, v []byte) bool {
		var e Expected
		if err = decode("expected member", v, &e); err != nil {
			return false
		}
		return f(&e)
	})
	return err
}

// validURLs wants what Expected.URLs says.
func validURLs(urls []string) bool {
	if len(urls) == 0 || len(urls) > MaxURLs || !slices.IsSorted(urls) {
		return false
	}
	for i, u := range urls {
		scheme, address, ok := strings.Cut(u, "://")
		if !ok || scheme != "http" && scheme != "https" || address == "" || len(u) > MaxURL {
			return false
		}
		if slices.ContainsFunc(urls[:i], func(o string) bool { return AddressOf(o) == address }) {
			return false
		}
	}
	return true
}

func (e *Expected) hasURLs() bool  { return validURLs(e.URLs) }
func (e *Expected) hasNode() bool  { return validName(e.Node) && e.Joined != 0 }
func (e *Expected) whatever() bool { return true }

// awaited tells whether another member that was not started yet has one of the
// addresses of e. Those of members that run are for the caller to compare: they are
// in the member table.
func awaited(tx *state.Tx, e *Expected) (taken bool, err error) {
	err = eachExpected(tx, func(o *Expected) bool {
		taken = o.Number != e.Number && !o.Started() && slices.ContainsFunc(e.URLs, func(u string) bool { return o.At(AddressOf(u)) })
		return !taken
	})
	return taken, err
}

// applyMemberAdd enters a member that is to join.
func applyMemberAdd(tx *state.Tx, payload []byte) (Outcome, error) {
	var p Expected
	if err := decode("member to add", payload, &p); err != nil {
		return 0, err
	}
	if p.Number == 0 || !p.hasURLs() {
		return MemberInvalid, nil
	}
	if _, ok, err := getExpected(tx, p.Number); err != nil || ok {
		return MemberExists, err
	}
	if taken, err := awaited(tx, &p); err != nil || taken {
		return AddressTaken, err
	}
	n := 0
	if err := eachExpected(tx, func(*Expected) bool { n++; return true }); err != nil {
		return 0, err
	}
	if n >= MaxExpected {
		return TooManyMembers, nil
	}
	putExpected(tx, Expected{Number: p.Number, URLs: p.URLs, Learner: p.Learner, Revision: tx.Next()})
	return OK, nil
}

// ofMember makes the applier of a command about a member that was added: apply gets its
// row and the payload, which is valid.
func ofMember(what string, valid func(p *Expected) bool, apply func(tx *state.Tx, e Expected, p *Expected) (Outcome, error)) applier {
	return func(tx *state.Tx, payload []byte) (Outcome, error) {
		var p Expected
		if err := decode(what, payload, &p); err != nil {
			return 0, err
		}
		if !valid(&p) {
			return MemberInvalid, nil
		}
		e, ok, err := getExpected(tx, p.Number)
		if err != nil || !ok {
			return MemberNotFound, err
		}
		return apply(tx, e, &p)
	}
}

// applyMemberUpdate changes the addresses of a member that was not started yet.
func applyMemberUpdate(tx *state.Tx, e Expected, p *Expected) (Outcome, error) {
	switch {
	case e.Started():
		return MemberStarted, nil
	case slices.Equal(e.URLs, p.URLs):
		return OK, nil
	}
	if taken, err := awaited(tx, p); err != nil || taken {
		return AddressTaken, err
	}
	e.URLs, e.Revision = p.URLs, tx.Next()
	putExpected(tx, e)
	return OK, nil
}

// applyMemberStart notes which node joined as a member. It may be repeated.
func applyMemberStart(tx *state.Tx, e Expected, p *Expected) (Outcome, error) {
	switch {
	case e.Node == p.Node && e.Joined == p.Joined:
		return OK, nil
	case e.Started():
		return MemberStarted, nil
	}
	other := false
	err := eachExpected(tx, func(o *Expected) bool {
		other = o.Node == p.Node && o.Joined == p.Joined
		return !other
	})
	if err != nil || other {
		return MemberExists, err
	}
	e.Node, e.Joined = p.Node, p.Joined
	putExpected(tx, e)
	return OK, nil
}

// applyMemberForget takes a row out, if the node that it is of is the one named: ""
// for none.
func applyMemberForget(tx *state.Tx, e Expected, p *Expected) (Outcome, error) {
	if e.Node != p.Node || e.Joined != p.Joined {
		return MemberStarted, nil
	}
	tx.Delete(Announced, numberKey(p.Number))
	return OK, nil
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
