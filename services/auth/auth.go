// Package auth decides who may do what. Every door asks Authorizer before it
// acts. This first slice allows everything; identities, policy and audit come
// behind the same interface.
package auth

import (
	"context"

	"nekoq/services/command"
)

// Principal is who asks: a name and the door it came through ("http", "native",
// "etcd", "cli", "internal"), with the peer's address.
type Principal struct {
	Name string
	Door string
	Addr string
	// Guard is the condition under which its writes are carried out; nil is none.
	Guard *command.Guard
}

// Actor is the form that goes into commands for the audit: "door:name".
func (p Principal) Actor() string { return p.Door + ":" + p.Name }

// Action is a verb on a resource.
type Action string

const (
	Read   Action = "read"
	Write  Action = "write"
	Delete Action = "delete"
	Watch  Action = "watch"
	Admin  Action = "admin"
)

// Resource is "service/kind/name", such as "warehouse/kv/app/db" or "numgen/generator/orders".
// End is set for a range of names: [Name, End).
type Resource struct {
	Service string
	Kind    string
	Name    string
	End     string
}

// Authorizer answers nil or an *errs.Error (unauthenticated, forbidden).
type Authorizer interface {
	Allow(ctx context.Context, p Principal, a Action, r Resource) error
}

// AllowAll allows everything.
type AllowAll struct{}

func (AllowAll) Allow(context.Context, Principal, Action, Resource) error { return nil }

// String gives the "service/kind/name" form, with "..end" for a range.
func (r Resource) String() string {
	s := r.Service + "/" + r.Kind
	if r.Name != "" || r.End != "" {
		s += "/" + r.Name
	}
	if r.End != "" {
		s += ".." + r.End
	}
	return s
}
