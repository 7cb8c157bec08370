package etcd_test

import (
	"context"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"nekoq/configs"
	"nekoq/services/app"
)

// succeeds ends the test with the error of a call that has to succeed.
func succeeds(t *testing.T) func(any, error) {
	return func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// addRoot makes the user and the role without which auth is not switched on.
func addRoot(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx, must := within(t, time.Minute), succeeds(t)
	must(c.UserAdd(ctx, "root", "secret"))
	must(c.RoleAdd(ctx, "root"))
	must(c.UserGrantRole(ctx, "root", "root"))
}

// guarded is a node with auth on: root may all, alice may read and write below
// "alice/" and read "shared".
func guarded(t *testing.T, nodes ...*app.App) (root, alice *clientv3.Client) {
	t.Helper()
	c := client(t, nodes...)
	ctx := within(t, time.Minute)
	must := succeeds(t)
	addRoot(t, c)
	must(c.UserAdd(ctx, "alice", "pw"))
	must(c.RoleAdd(ctx, "own"))
	must(c.RoleGrantPermission(ctx, "own", "alice/", "alice0", clientv3.PermissionType(clientv3.PermReadWrite)))
	must(c.RoleGrantPermission(ctx, "own", "shared", "", clientv3.PermissionType(clientv3.PermRead)))
	must(c.UserGrantRole(ctx, "alice", "own"))
	must(c.AuthEnable(ctx))
	return clientAs(t, "root", "secret", nodes...), clientAs(t, "alice", "pw", nodes...)
}

func wants(t *testing.T, what string, err, want error) {
	t.Helper()
	if want == nil && err != nil || want != nil && (err == nil || rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(want)) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestPermissions(t *testing.T) {
	n := node(t)
	root, alice := guarded(t, n)
	anonymous := client(t, n)
	ctx := within(t, time.Minute)
	denied := rpctypes.ErrPermissionDenied
	_, err := anonymous.Get(ctx, "alice/1")
	wants(t, "anonymous get", err, rpctypes.ErrUserEmpty)
	_, err = anonymous.Put(ctx, "alice/1", "x")
	wants(t, "anonymous put", err, rpctypes.ErrUserEmpty)
	_, err = anonymous.Grant(ctx, 10)
	wants(t, "anonymous lease", err, rpctypes.ErrUserEmpty)
	_, err = alice.Put(ctx, "alice/1", "x")
	wants(t, "own put", err, nil)
	_, err = alice.Get(ctx, "alice/", clientv3.WithPrefix())
	wants(t, "own range", err, nil)
	_, err = alice.Get(ctx, "alice/", clientv3.WithFromKey())
	wants(t, "range beyond", err, denied)
	_, err = alice.Get(ctx, "shared")
	wants(t, "shared", err, nil)
	_, err = alice.Get(ctx, "shared", clientv3.WithSerializable())
	wants(t, "shared, serializable", err, nil)
	_, err = alice.Put(ctx, "shared", "x")
	wants(t, "write of what is read", err, denied)
	_, err = alice.Delete(ctx, "", clientv3.WithPrefix())
	wants(t, "delete of all", err, denied)
	_, err = alice.Txn(ctx).If(clientv3.Compare(clientv3.Version("other"), "=", 0)).Commit()
	wants(t, "compare of another's key", err, denied)
	_, err = alice.Txn(ctx).Then(clientv3.OpPut("alice/1", "y")).Else(clientv3.OpGet("other")).Commit()
	wants(t, "a branch that is not taken", err, denied)
	_, err = alice.Compact(ctx, 2)
	wants(t, "compaction", err, denied)
	_, err = alice.UserAdd(ctx, "bob", "x")
	wants(t, "user add", err, denied)
	_, err = alice.UserGet(ctx, "alice")
	wants(t, "oneself", err, nil)
	_, err = alice.UserGet(ctx, "root")
	wants(t, "another", err, denied)
	_, err = alice.RoleGet(ctx, "own")
	wants(t, "own role", err, nil)
	_, err = alice.UserList(ctx)
	wants(t, "user list", err, denied)
	_, err = root.Put(ctx, "anything", "x")
	wants(t, "root", err, nil)
	_, err = root.UserDelete(ctx, "root")
	wants(t, "root away", err, rpctypes.ErrInvalidAuthMgmt)
	_, err = root.UserRevokeRole(ctx, "root", "root")
	wants(t, "root's role away", err, rpctypes.ErrInvalidAuthMgmt)
	_, err = root.RoleDelete(ctx, "root")
	wants(t, "root role away", err, rpctypes.ErrInvalidAuthMgmt)

	// A lease with another's key cannot be revoked, nor its keys be read.
	l, err := root.Grant(ctx, 100)
	wants(t, "grant", err, nil)
	_, err = root.Put(ctx, "other", "x", clientv3.WithLease(l.ID))
	wants(t, "put on lease", err, nil)
	_, err = alice.Revoke(ctx, l.ID)
	wants(t, "revoke", err, denied)
	_, err = alice.Put(ctx, "alice/2", "x", clientv3.WithLease(l.ID))
	wants(t, "own key on another's lease", err, denied)
	_, err = alice.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
	wants(t, "keys of a lease", err, denied)
	_, err = alice.TimeToLive(ctx, l.ID)
	wants(t, "time to live", err, nil)
	_, err = alice.Leases(ctx)
	wants(t, "leases", err, denied)

	_, err = root.AuthDisable(ctx)
	wants(t, "disable", err, nil)
	_, err = anonymous.Put(ctx, "other", "x")
	wants(t, "open again", err, nil)
}

func TestLogIn(t *testing.T) {
	n := node(t)
	root, _ := guarded(t, n)
	conn := wire(t, n.EtcdAddr().String())
	auth, kv := pb.NewAuthClient(conn), pb.NewKVClient(conn)
	ctx := within(t, time.Minute)
	for _, r := range []*pb.AuthenticateRequest{{Name: "alice", Password: "wrong"}, {Name: "nobody", Password: "pw"}, {Name: "alice"}} {
		_, err := auth.Authenticate(ctx, r)
		wants(t, r.Name+" "+r.Password, err, rpctypes.ErrGRPCAuthFailed)
	}
	res, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "pw"})
	if err != nil {
		t.Fatal(err)
	}
	as := func(token string) context.Context { return metadata.AppendToOutgoingContext(ctx, "token", token) }
	_, err = kv.Range(as(res.Token), &pb.RangeRequest{Key: []byte("shared")})
	wants(t, "with a token", err, nil)
	_, err = kv.Range(as(res.Token+"A"), &pb.RangeRequest{Key: []byte("shared")})
	wants(t, "with a forged token", err, rpctypes.ErrGRPCInvalidAuthToken)
	// Another password ends the tokens of the user.
	if _, err := root.UserChangePassword(ctx, "alice", "new"); err != nil {
		t.Fatal(err)
	}
	_, err = kv.Range(as(res.Token), &pb.RangeRequest{Key: []byte("shared")})
	wants(t, "with an old token", err, rpctypes.ErrGRPCInvalidAuthToken)
	// So does being deleted and made anew.
	res, err = auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "new"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := root.UserDelete(ctx, "alice"); err != nil {
		t.Fatal(err)
	}
	if _, err := root.UserAdd(ctx, "alice", "new"); err != nil {
		t.Fatal(err)
	}
	_, err = kv.Range(as(res.Token), &pb.RangeRequest{Key: []byte("shared")})
	wants(t, "with the token of a deleted user", err, rpctypes.ErrGRPCInvalidAuthToken)
	// A user without password cannot log in.
	if _, err := root.UserAddWithOptions(ctx, "cert", "", &clientv3.UserAddOptions{NoPassword: true}); err != nil {
		t.Fatal(err)
	}
	_, err = auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "cert"})
	wants(t, "no password", err, rpctypes.ErrGRPCAuthFailed)
}

func TestTokensEndAndClientsRenewThem(t *testing.T) {
	n := node(t, func(c *configs.Config) { c.Etcd.AuthTokenTTL = time.Second })
	_, alice := guarded(t, n)
	ctx := within(t, time.Minute)
	began := time.Now()
	for time.Since(began) < 2500*time.Millisecond {
		if _, err := alice.Put(ctx, "alice/1", "x"); err != nil {
			t.Fatal(err)
		}
	}
}

// trap: permission on one key does not leak later keys through a watch.
func TestWatchGivesNothingAway(t *testing.T) {
	n := node(t)
	root, alice := guarded(t, n)
	ctx := within(t, time.Minute)
	for name, opts := range map[string][]clientv3.OpOption{
		"from the permitted key on": {clientv3.WithFromKey()},
		"a wider range":             {clientv3.WithRange("t")},
	} {
		r := <-alice.Watch(ctx, "shared", opts...)
		if !r.Canceled || !strings.Contains(r.Err().Error(), "permission denied") {
			t.Errorf("%s: %+v %v", name, r, r.Err())
		}
	}
	r := <-client(t, n).Watch(ctx, "shared")
	if !r.Canceled {
		t.Errorf("anonymous: %+v", r)
	}
	own := alice.Watch(ctx, "shared", clientv3.WithCreatedNotify())
	if r := <-own; !r.Created {
		t.Fatalf("%+v", r)
	}
	if _, err := root.Put(ctx, "shared", "1"); err != nil {
		t.Fatal(err)
	}
	if r := <-own; len(r.Events) != 1 {
		t.Fatalf("%+v", r)
	}
	// What is revoked while a watch runs ends it before the next event.
	if _, err := root.RoleRevokePermission(ctx, "own", "shared", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := root.Put(ctx, "shared", "2"); err != nil {
		t.Fatal(err)
	}
	if r, open := <-own; open || len(r.Events) != 0 { // the client closes what the server cancels
		t.Errorf("after the permission was revoked: %+v", r)
	}
}

func TestAuthOnThreeNodes(t *testing.T) {
	nodes := three(t)
	_, alice := guarded(t, nodes[0])
	ctx := within(t, time.Minute)
	token, err := pb.NewAuthClient(wire(t, nodes[0].EtcdAddr().String())).Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "pw"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Put(ctx, "alice/1", "x"); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes { // every node takes the token of one
		kv := pb.NewKVClient(wire(t, n.EtcdAddr().String()))
		eventually(t, "auth is on everywhere", func() bool {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("alice/1")})
			return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty)
		})
		r, err := kv.Range(metadata.AppendToOutgoingContext(ctx, "token", token.Token), &pb.RangeRequest{Key: []byte("alice/1")})
		if err != nil || len(r.Kvs) != 1 {
			t.Errorf("%v: %v", r, err)
		}
		if _, err := kv.Put(metadata.AppendToOutgoingContext(ctx, "token", token.Token), &pb.PutRequest{Key: []byte("other")}); status.Convert(err).Message() != rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("%v", err)
		}
	}
}
