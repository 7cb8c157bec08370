package etcd_test

import (
	"context"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"nekoq/services/app"
	"nekoq/services/auth"
)

// meanwhile is an authorizer that allows everything and, when a write of a user was
// judged and is about to go into the log, runs something first, once.
type meanwhile struct {
	mu   sync.Mutex
	user string
	run  func()
}

func (m *meanwhile) Allow(_ context.Context, p auth.Principal, a auth.Action, r auth.Resource) error {
	if a != auth.Write && a != auth.Delete || p.Name == "" {
		return nil
	}
	m.mu.Lock()
	run := m.run
	if p.Name == m.user {
		m.run = nil
	} else {
		run = nil
	}
	m.mu.Unlock()
	if run != nil {
		run()
	}
	return nil
}

func (m *meanwhile) next(user string, run func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.user, m.run = user, run
}

func interposed(t *testing.T) (*app.App, *meanwhile) {
	t.Helper()
	m := &meanwhile{}
	return startWith(t, quick(), app.Deps{Auth: m}), m
}

// A write whose permission is revoked between the judgement and its turn in the log
// is refused; one that may still be done is done, though other permissions changed.
func TestPermissionRevokedWhileAWriteIsUnderWay(t *testing.T) {
	n, m := interposed(t)
	root, alice := guarded(t, n)
	ctx := within(t, time.Minute)
	denied := rpctypes.ErrPermissionDenied
	must := succeeds(t)
	revoke := func() { must(root.RoleRevokePermission(ctx, "own", "alice/", "alice0")) }
	grant := func() {
		must(root.RoleGrantPermission(ctx, "own", "alice/", "alice0", clientv3.PermissionType(clientv3.PermReadWrite)))
	}
	must(alice.Put(ctx, "alice/kept", "x"))
	l, err := alice.Grant(ctx, 100)
	must(l, err)
	must(alice.Put(ctx, "alice/leased", "x", clientv3.WithLease(l.ID)))
	for what, write := range map[string]func() error{
		"put":    func() error { _, err := alice.Put(ctx, "alice/1", "x"); return err },
		"delete": func() error { _, err := alice.Delete(ctx, "alice/kept"); return err },
		"txn": func() error {
			_, err := alice.Txn(ctx).Then(clientv3.OpPut("alice/2", "x")).Commit()
			return err
		},
		"revoke": func() error { _, err := alice.Revoke(ctx, l.ID); return err },
	} {
		m.next("alice", revoke)
		wants(t, what, write(), denied)
		grant()
	}
	r, err := root.Get(ctx, "alice/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	must(r, err)
	if len(r.Kvs) != 2 || string(r.Kvs[0].Key) != "alice/kept" || string(r.Kvs[1].Key) != "alice/leased" {
		t.Errorf("a write landed after its permission was revoked: %v", r.Kvs)
	}
	// What changes and does not concern the writer costs a second judgement.
	m.next("alice", func() { must(root.RoleAdd(ctx, "another")) })
	must(alice.Put(ctx, "alice/1", "x"))
	m.next("alice", func() { must(root.RoleDelete(ctx, "another")) })
	must(alice.Revoke(ctx, l.ID))
	// So does auth that is switched off.
	m.next("alice", func() { must(root.AuthDisable(ctx)) })
	must(alice.Put(ctx, "alice/1", "y"))
}

// A change of users by somebody who is no longer root is refused, and so is a write
// of a user who was deleted, or has another password.
func TestUserChangedWhileARequestIsUnderWay(t *testing.T) {
	n, m := interposed(t)
	root, _ := guarded(t, n)
	ctx := within(t, time.Minute)
	must := succeeds(t)
	conn := wire(t, n.EtcdAddr().String())
	logIn := func() context.Context {
		res, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "pw"})
		must(res, err)
		return metadata.AppendToOutgoingContext(ctx, "token", res.Token)
	}
	put := &pb.PutRequest{Key: []byte("alice/1"), Value: []byte("x")}
	token := logIn()
	m.next("alice", func() { must(root.UserChangePassword(ctx, "alice", "pw")) })
	_, err := pb.NewKVClient(conn).Put(token, put)
	wants(t, "another password", err, rpctypes.ErrGRPCInvalidAuthToken)
	token = logIn()
	m.next("alice", func() { must(root.UserDelete(ctx, "alice")) })
	_, err = pb.NewKVClient(conn).Put(token, put)
	wants(t, "deleted", err, rpctypes.ErrGRPCInvalidAuthToken)
	if r, err := root.Get(ctx, "alice/1"); err != nil || len(r.Kvs) != 0 {
		t.Error("a write of a user who is gone landed", r, err)
	}
}

// A write of somebody without a name is refused when auth is switched on before its turn
// in the log, though the node that judged it did not know.
func TestAuthSwitchedOnWhileAWriteIsUnderWay(t *testing.T) {
	n, m := interposed(t)
	c := client(t, n)
	ctx := within(t, time.Minute)
	must := succeeds(t)
	addRoot(t, c)
	must(c.Put(ctx, "before", "x"))
	m.next("anonymous", func() { must(c.RoleAdd(ctx, "another")) })
	must(c.Put(ctx, "before", "y"))
	for what, write := range map[string]func() error{
		"put":    func() error { _, err := c.Put(ctx, "k", "x"); return err },
		"delete": func() error { _, err := c.Delete(ctx, "before"); return err },
		"txn":    func() error { _, err := c.Txn(ctx).Then(clientv3.OpPut("k", "x")).Commit(); return err },
	} {
		m.next("anonymous", func() { must(c.AuthEnable(ctx)) })
		wants(t, what, write(), rpctypes.ErrUserEmpty)
		root := clientAs(t, "root", "secret", n)
		r, err := root.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
		must(r, err)
		if r.Count != 1 {
			t.Errorf("%s: %d keys, want the one from before", what, r.Count)
		}
		must(root.AuthDisable(ctx))
	}
}
