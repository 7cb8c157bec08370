package etcd

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"sync"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/command"
	"nekoq/warehouse/etcd/internal/table"
)

// change carries out a command on users and roles.
func (s *Door) change(ctx context.Context, kind command.Kind, payload any) (*pb.ResponseHeader, error) {
	if err := s.carry(ctx, "auth", kind, payload); err != nil {
		return nil, err
	}
	return s.headNow(ctx)
}

// carry carries out a command that only root may give; what names it to the authorizer.
func (s *Door) carry(ctx context.Context, what string, kind command.Kind, payload any) error {
	var out table.Outcome
	x, err := s.admin(ctx, what)
	for more := true; more; more = s.again(ctx, &x, &err) {
		if err == nil {
			err = x.admin()
		}
		if err == nil {
			out, err = s.propose(under(ctx, &x), kind, payload)
		}
	}
	if err != nil {
		return grpcError(ctx, err)
	}
	return byOutcome[min(int(out), len(byOutcome)-1)]
}

// AuthEnable implements etcd's Auth: user root with role root must exist.
func (s *Door) AuthEnable(ctx context.Context, _ *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, grpcError(ctx, err)
	}
	h, err := s.change(ctx, table.KindEnable, table.Enable{Secret: secret})
	if err != nil {
		return nil, err
	}
	return &pb.AuthEnableResponse{Header: h}, nil
}

// AuthDisable implements etcd's Auth.
func (s *Door) AuthDisable(ctx context.Context, _ *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	h, err := s.change(ctx, table.KindDisable, struct{}{})
	if err != nil {
		return nil, err
	}
	return &pb.AuthDisableResponse{Header: h}, nil
}

// AuthStatus implements etcd's Auth.
func (s *Door) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	if _, err := s.admin(ctx, "auth"); err != nil {
		return nil, err
	}
	a, err := s.authNow(ctx)
	if err != nil {
		return nil, err
	}
	h, err := s.headNow(ctx)
	return &pb.AuthStatusResponse{Header: h, Enabled: a.Enabled, AuthRevision: a.Revision}, err
}

// Authenticate implements etcd's Auth.
func (s *Door) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	a, err := s.authNow(ctx)
	if err != nil {
		return nil, err
	}
	if !a.Enabled {
		return nil, rpctypes.ErrGRPCAuthNotEnabled
	}
	u, ok := a.User(r.Name)
	hash := unknownHash()
	if ok && !u.NoPassword && len(u.Hash) > 0 {
		hash = u.Hash
	}
	// An unknown user costs as much as a wrong password.
	if err := bcrypt.CompareHashAndPassword(hash, []byte(r.Password)); err != nil || !ok || u.NoPassword {
		s.log.Info("etcd door: a log-in was refused", "user", r.Name, "from", callerOf(ctx).Addr)
		return nil, rpctypes.ErrGRPCAuthFailed
	}
	h, err := s.headNow(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.AuthenticateResponse{Header: h, Token: sealToken(a, u.Name, s.clock.Now().Add(s.cfg.AuthTokenTTL))}, nil
}

// unknownHash is the hash of no password that anybody knows. It is made at the first
// log-in: making it takes some 50 ms.
var unknownHash = sync.OnceValue(func() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	h, err := bcrypt.GenerateFromPassword(b, bcrypt.DefaultCost)
	if err != nil {
		panic(err)
	}
	return h
})

// hashed makes the hash that is stored: of the password, or the one that the client
// has made itself.
func (s *Door) hashed(password, hash string) ([]byte, error) {
	if hash != "" && password == "" {
		b, err := base64.StdEncoding.DecodeString(hash)
		if err != nil {
			return nil, rpctypes.ErrGRPCAuthFailed
		}
		return b, nil
	}
	b, err := bcrypt.GenerateFromPassword([]byte(password), s.cfg.BcryptCost)
	if err != nil { // a password of more than 72 bytes; etcd passes bcrypt's words on too
		return nil, status.Error(codes.Unknown, err.Error())
	}
	return b, nil
}

// UserAdd implements etcd's Auth.
func (s *Door) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	if r.Name == "" {
		return nil, rpctypes.ErrGRPCUserEmpty
	}
	u := table.User{Name: r.Name, NoPassword: r.Options.GetNoPassword()}
	if !u.NoPassword {
		var err error
		if u.Hash, err = s.hashed(r.Password, r.HashedPassword); err != nil {
			return nil, err
		}
	}
	h, err := s.change(ctx, table.KindUserAdd, u)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserAddResponse{Header: h}, nil
}

// UserDelete implements etcd's Auth.
func (s *Door) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	h, err := s.change(ctx, table.KindUserDelete, table.Name{Name: r.Name})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserDeleteResponse{Header: h}, nil
}

// UserChangePassword implements etcd's Auth; it ends the user's tokens.
func (s *Door) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	hash, err := s.hashed(r.Password, r.HashedPassword)
	if err != nil {
		return nil, err
	}
	h, err := s.change(ctx, table.KindUserPassword, table.User{Name: r.Name, Hash: hash})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserChangePasswordResponse{Header: h}, nil
}

// UserGrantRole implements etcd's Auth.
func (s *Door) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	h, err := s.change(ctx, table.KindUserGrant, table.Grant{User: r.User, Role: r.Role})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGrantRoleResponse{Header: h}, nil
}

// UserRevokeRole implements etcd's Auth.
func (s *Door) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	h, err := s.change(ctx, table.KindUserRevoke, table.Grant{User: r.Name, Role: r.Role})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserRevokeRoleResponse{Header: h}, nil
}

// asked lets root in, and whoever asks about what is its own.
func (s *Door) asked(ctx context.Context, own func(x access) bool) (*table.Auth, *pb.ResponseHeader, error) {
	a, err := s.authNow(ctx)
	if err != nil {
		return nil, nil, err
	}
	x, err := s.identify(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	if err := x.admin(); err != nil && (x.rights == nil || !own(x)) {
		return nil, nil, err
	}
	h, err := s.headNow(ctx)
	return a, h, err
}

// UserGet implements etcd's Auth.
func (s *Door) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	a, h, err := s.asked(ctx, func(x access) bool { return x.user == r.Name })
	if err != nil {
		return nil, err
	}
	u, ok := a.User(r.Name)
	if !ok {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	return &pb.AuthUserGetResponse{Header: h, Roles: u.Roles}, nil
}

// UserList implements etcd's Auth.
func (s *Door) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	a, h, err := s.asked(ctx, func(access) bool { return false })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserListResponse{Header: h, Users: a.UserNames()}, nil
}

// RoleAdd implements etcd's Auth.
func (s *Door) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	if r.Name == "" {
		return nil, rpctypes.ErrGRPCRoleEmpty
	}
	h, err := s.change(ctx, table.KindRoleAdd, table.Name{Name: r.Name})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleAddResponse{Header: h}, nil
}

// RoleDelete implements etcd's Auth.
func (s *Door) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	h, err := s.change(ctx, table.KindRoleDelete, table.Name{Name: r.Role})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleDeleteResponse{Header: h}, nil
}

// RoleGrantPermission implements etcd's Auth.
func (s *Door) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	if r.Perm == nil {
		return nil, rpctypes.ErrGRPCPermissionNotGiven
	}
	open := len(r.Perm.RangeEnd) == 1 && r.Perm.RangeEnd[0] == 0
	if len(r.Perm.Key) == 0 || len(r.Perm.RangeEnd) > 0 && !open && bytes.Compare(r.Perm.Key, r.Perm.RangeEnd) >= 0 {
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	if r.Perm.PermType < authpb.READ || r.Perm.PermType > authpb.READWRITE {
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	h, err := s.change(ctx, table.KindPermissionGrant, table.Permit{Role: r.Name, Permission: table.Permission{
		Right: byte(r.Perm.PermType), Key: r.Perm.Key, End: r.Perm.RangeEnd,
	}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleGrantPermissionResponse{Header: h}, nil
}

// RoleRevokePermission implements etcd's Auth.
func (s *Door) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	h, err := s.change(ctx, table.KindPermissionRevoke, table.Permit{Role: r.Role, Permission: table.Permission{Key: r.Key, End: r.RangeEnd}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleRevokePermissionResponse{Header: h}, nil
}

// RoleGet implements etcd's Auth. The root role has everything.
func (s *Door) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	a, h, err := s.asked(ctx, func(x access) bool { return holds(x.rights, r.Role) })
	if err != nil {
		return nil, err
	}
	role, ok := a.Role(r.Role)
	if !ok {
		return nil, rpctypes.ErrGRPCRoleNotFound
	}
	out := &pb.AuthRoleGetResponse{Header: h}
	if role.Name == table.Root {
		out.Perm = []*authpb.Permission{{PermType: authpb.READWRITE, Key: []byte{}, RangeEnd: []byte{0}}}
		return out, nil
	}
	out.Perm = permissions(&role)
	return out, nil
}

func permissions(r *table.Role) (out []*authpb.Permission) {
	for _, p := range r.Permissions {
		out = append(out, &authpb.Permission{PermType: authpb.Permission_Type(p.Right), Key: p.Key, RangeEnd: p.End})
	}
	return out
}

func holds(u *table.Rights, role string) bool {
	for _, r := range u.Roles {
		if r == role {
			return true
		}
	}
	return false
}

// RoleList implements etcd's Auth.
func (s *Door) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	a, h, err := s.asked(ctx, func(access) bool { return false })
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleListResponse{Header: h, Roles: a.RoleNames()}, nil
}
