package etcd

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"nekoq/services/auth"
	"nekoq/services/grpcserver"
	"nekoq/services/replica"
	"nekoq/services/state"
	"nekoq/warehouse/etcd/internal/table"
)

// authOf gives users and roles as a view sees them.
func authOf(v *state.View) *table.Auth { return v.Frozen(table.IndexName).(*table.Auth) }

// auth gives users and roles as this node has them.
func (s *Door) auth() *table.Auth { return s.deps.Replica.Current(table.IndexName).(*table.Auth) }

// authNow gives users and roles after every change that ended before the call.
func (s *Door) authNow(ctx context.Context) (*table.Auth, error) {
	v, _, err := s.deps.Replica.View(ctx, replica.Linearizable)
	if err != nil {
		return nil, grpcError(ctx, err)
	}
	defer v.Release()
	return authOf(v), nil
}

// access is who asks, and what it may do. The zero rights with auth off allow all.
type access struct {
	on     bool
	user   string
	rights *table.Rights
	rev    uint64 // auth revision that was looked at
	fresh  bool   // as new as the request
}

// access says who asks. With auth off it costs one look at this node's state; with
// auth on, fresh makes it as new as the request, so that what was revoked before
// the request began is revoked.
func (s *Door) access(ctx context.Context, fresh bool) (access, error) {
	a := s.auth()
	if !a.Enabled {
		return access{rev: a.Revision}, nil
	}
	if fresh {
		var err error
		if a, err = s.authNow(ctx); err != nil {
			return access{}, err
		}
	}
	x, err := s.identify(ctx, a)
	x.fresh = fresh
	return x, err
}

// again tells whether a write that ended with *err is to be judged once more, and
// looks at users and roles anew then. It is when they had changed when its turn came
// (its guard says so), and when it was denied by what this node knows, which may be
// behind.
func (s *Door) again(ctx context.Context, x *access, err *error) bool {
	switch {
	case *err == nil:
		return false
	case table.Changed(*err):
	case !x.on || x.fresh || !denied(*err):
		return false
	}
	a, e := s.authNow(ctx)
	if e != nil {
		*err = e
		return false
	}
	*x, *err = s.identify(ctx, a)
	x.fresh = true
	return true
}

func denied(err error) bool {
	return errors.Is(err, rpctypes.ErrGRPCPermissionDenied) || errors.Is(err, rpctypes.ErrGRPCUserEmpty) || errors.Is(err, rpctypes.ErrGRPCInvalidAuthToken)
}

// identify reads the token of a request. A request without one is somebody without
// rights: what needs no rights is served.
func (s *Door) identify(ctx context.Context, a *table.Auth) (access, error) {
	if !a.Enabled {
		return access{rev: a.Revision}, nil
	}
	out := access{on: true, rev: a.Revision}
	token := tokenOf(ctx)
	if token == "" {
		return out, nil
	}
	u, ok := openToken(a, token, s.clock.Now())
	if !ok {
		return out, rpctypes.ErrGRPCInvalidAuthToken
	}
	out.user, out.rights = u.Name, u
	return out, nil
}

// again judges the same user by a newer state of auth.
func (x access) again(a *table.Auth) access {
	out := access{on: a.Enabled, rev: a.Revision, user: x.user}
	if x.user != "" {
		out.rights, _ = a.User(x.user)
	}
	return out
}

func (x access) known() error {
	switch {
	case !x.on:
		return nil
	case x.user == "":
		return rpctypes.ErrGRPCUserEmpty
	case x.rights == nil:
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

func (x access) read(key, end []byte) error {
	if err := x.known(); err != nil || !x.on {
		return err
	}
	if !x.rights.MayRead(key, end) {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

func (x access) write(key, end []byte) error {
	if err := x.known(); err != nil || !x.on {
		return err
	}
	if !x.rights.MayWrite(key, end) {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

// admin is what cluster, maintenance and auth need.
func (x access) admin() error {
	if err := x.known(); err != nil || !x.on {
		return err
	}
	if !x.rights.Root {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

func tokenOf(ctx context.Context) string {
	for _, name := range [...]string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		if v, ok := grpcserver.Header(ctx, name); ok {
			return strings.TrimPrefix(v, "Bearer ")
		}
	}
	return ""
}

// A token is user name, auth revision and end of life, signed with the secret that
// all nodes have: every node takes it and none has to remember it. It is void when
// the user was deleted, made anew or given another password, and when auth was
// switched off and on.
func sealToken(a *table.Auth, user string, until time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, a.Revision)
	b = binary.BigEndian.AppendUint64(b, uint64(until.UnixMilli()))
	b = append(b, user...)
	return base64.RawURLEncoding.EncodeToString(append(sign(a.Secret, b), b...))
}

func sign(secret, b []byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write(b)
	return m.Sum(nil)
}

func openToken(a *table.Auth, token string, now time.Time) (*table.Rights, bool) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < sha256.Size+17 || !hmac.Equal(b[:sha256.Size], sign(a.Secret, b[sha256.Size:])) {
		return nil, false
	}
	b = b[sha256.Size:]
	rev, until := binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[8:]))
	u, ok := a.User(string(b[16:]))
	return u, ok && rev >= u.TokensFrom && now.UnixMilli() < until
}

// allow asks the authorizer of the whole program, beside etcd's own users.
func (s *Door) allow(ctx context.Context, user string, a auth.Action, kind string, key, end []byte) error {
	if s.everyone {
		return nil
	}
	p := *callerOf(ctx)
	if user != "" {
		p.Name = user
	}
	return grpcError(ctx, s.deps.Auth.Allow(ctx, p, a, auth.Resource{Service: "warehouse", Kind: kind, Name: string(key), End: string(end)}))
}
