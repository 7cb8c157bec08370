package etcd_test

import (
	"context"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What etcd 3.4, of which the transcript is, does not know or does otherwise than
// 3.6 and 3.7.
func TestAnswersOfNewerEtcd(t *testing.T) {
	n := node(t)
	addr := n.EtcdAddr().String()
	conn := wire(t, addr)
	ctx := within(t, time.Minute)
	members, care, leases, users := pb.NewClusterClient(conn), pb.NewMaintenanceClient(conn), pb.NewLeaseClient(conn), pb.NewAuthClient(conn)
	refused := func(what string, err error, code codes.Code, text string) {
		t.Helper()
		if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
			t.Errorf("%s: %v, want %v %q", what, err, code, text)
		}
	}
	for _, urls := range [][]string{nil, {""}, {"nope"}, {"127.0.0.1:1"}, {"ftp://127.0.0.1:1"}, {"http://127.0.0.1"}, {"http://127.0.0.1:1/path"}, {"http://127.0.0.1:1", "http://%"}} {
		_, err := members.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls})
		refused(strings.Join(urls, " "), err, codes.InvalidArgument, "etcdserver: given member URLs are invalid")
	}
	for _, u := range []string{"http://127.0.0.1:1", " https://[::1]:1"} {
		_, err := members.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{u}})
		refused(u, err, codes.FailedPrecondition, "a LocalSwitch is one node without peers")
	}
	_, err := members.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"unix://x"}})
	refused("a socket", err, codes.InvalidArgument, "cluster.advertise")
	for version, text := range map[string]string{
		"": "wrong downgrade target version format", "v3.5": "wrong downgrade target version format", "3": "wrong downgrade target version format",
		"3.5": "invalid downgrade target version", "3.5.0-rc.1": "invalid downgrade target version",
	} {
		_, err := care.Downgrade(ctx, &pb.DowngradeRequest{Version: version})
		refused("downgrade to "+version, err, codes.InvalidArgument, "etcdserver: "+text)
	}
	_, err = care.Downgrade(ctx, &pb.DowngradeRequest{Action: 9, Version: "3.5"})
	refused("unknown action", err, codes.Unknown, "etcdserver: unknown method")
	if r, err := care.Downgrade(ctx, &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL}); err != nil || r.Version != "3.6" || r.Header == nil {
		t.Errorf("cancel: %v %v", r, err)
	}
	_, err = leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: -7, TTL: 10})
	refused("lease with an id below 0", err, codes.InvalidArgument, "lease ID: -7 is not valid")
	if r, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: math.MaxInt64, TTL: 10}); err != nil || r.ID != math.MaxInt64 {
		t.Errorf("the largest id: %v %v", r, err)
	}
	_, err = users.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "long", Password: strings.Repeat("p", 73)})
	refused("a long password", err, codes.Unknown, "bcrypt: password length exceeds 72 bytes")
	if _, err = users.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "long", Password: strings.Repeat("p", 72)}); err != nil {
		t.Error(err)
	}
	_, err = users.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "long", Password: strings.Repeat("p", 73)})
	refused("another long password", err, codes.Unknown, "bcrypt: password length exceeds 72 bytes")
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: make([]byte, 5000)})
	refused("a longer key than there can be", err, codes.InvalidArgument, "etcdserver: request is too large")
	hashOfCompacted(ctx, t, conn)

	res, err := web(t).Post("http://"+addr+"/version", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST of /version: %d", res.StatusCode)
	}
}

// hashOfCompacted wants -1 for a compaction that never was.
func hashOfCompacted(ctx context.Context, t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	care, kv := pb.NewMaintenanceClient(conn), pb.NewKVClient(conn)
	for _, want := range []int64{-1, 2} {
		if r, err := care.HashKV(ctx, &pb.HashKVRequest{}); err != nil || r.CompactRevision != want {
			t.Errorf("compact_revision %d: %v %v", want, r, err)
		}
		if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 2}); err != nil && want < 0 {
			t.Fatal(err)
		}
	}
}

// With auth on, members and keep-alives are for those who have a name; a stream of
// keep-alives ends when its user does, and not with the token that it began with.
func TestNamelessKeepNothingAlive(t *testing.T) {
	n := node(t)
	conn := wire(t, n.EtcdAddr().String())
	leases := pb.NewLeaseClient(conn)
	ctx := within(t, time.Minute)
	beat := func(s pb.Lease_LeaseKeepAliveClient, id int64) (ttl int64, err error) {
		if err := s.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			return 0, err
		}
		r, err := s.Recv()
		return r.GetTTL(), err
	}
	begin := func(ctx context.Context) pb.Lease_LeaseKeepAliveClient {
		t.Helper()
		s, err := leases.LeaseKeepAlive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	early := begin(ctx)
	l, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60})
	if err != nil {
		t.Fatal(err)
	}
	if ttl, err := beat(early, l.ID); err != nil || ttl != 60 {
		t.Fatalf("%d %v", ttl, err)
	}
	root, _ := guarded(t, n)
	empty := rpctypes.ErrGRPCUserEmpty
	_, err = beat(early, l.ID)
	wants(t, "a stream from before auth was on", err, empty)
	_, err = beat(begin(ctx), l.ID)
	wants(t, "no name", err, empty)
	_, err = beat(begin(metadata.AppendToOutgoingContext(ctx, "token", "forged")), l.ID)
	wants(t, "a forged token", err, rpctypes.ErrGRPCInvalidAuthToken)
	_, err = pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	wants(t, "members without a name", err, empty)
	_, err = pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	wants(t, "members without a name", err, empty)
	if r, err := root.MemberList(ctx); err != nil || len(r.Members) != 1 {
		t.Errorf("%v %v", r, err)
	}

	token, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "pw"})
	if err != nil {
		t.Fatal(err)
	}
	own := begin(metadata.AppendToOutgoingContext(ctx, "token", token.Token))
	alive := func(what string) {
		t.Helper()
		if ttl, err := beat(own, l.ID); err != nil || ttl != 60 {
			t.Errorf("%s: %d %v", what, ttl, err)
		}
	}
	alive("a name")
	if _, err := root.UserChangePassword(ctx, "alice", "new"); err != nil { // which ends her tokens
		t.Fatal(err)
	}
	alive("after the token")
	if _, err := root.UserDelete(ctx, "alice"); err != nil {
		t.Fatal(err)
	}
	_, err = beat(own, l.ID)
	wants(t, "a user that was deleted", err, rpctypes.ErrGRPCPermissionDenied)
	if _, err := root.AuthDisable(ctx); err != nil {
		t.Fatal(err)
	}
	if ttl, err := beat(begin(ctx), l.ID); err != nil || ttl != 60 {
		t.Errorf("auth off: %d %v", ttl, err)
	}
}
