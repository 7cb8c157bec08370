package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nekoq/services/errs"
	"nekoq/services/grpcserver"
	"nekoq/warehouse/etcd/internal/table"
)

// byCode turns the codes of this program into etcd's errors, text and code. What is
// not here has no counterpart in etcd and keeps its own message (see fallback).
var byCode = map[errs.Code]error{
	errs.Compacted:        rpctypes.ErrGRPCCompacted,
	errs.FutureRevision:   rpctypes.ErrGRPCFutureRev,
	errs.LeaseNotFound:    rpctypes.ErrGRPCLeaseNotFound,
	errs.TooLarge:         rpctypes.ErrGRPCRequestTooLarge,
	errs.TooManyOps:       rpctypes.ErrGRPCTooManyOps,
	errs.DuplicateKey:     rpctypes.ErrGRPCDuplicateKey,
	errs.TooManyRequests:  rpctypes.ErrGRPCRequestTooManyRequests,
	errs.Exhausted:        rpctypes.ErrGRPCNoSpace,
	errs.QuotaExceeded:    rpctypes.ErrGRPCNoSpace,
	errs.StorageFull:      rpctypes.ErrGRPCNoSpace,
	errs.NoLeader:         rpctypes.ErrGRPCNoLeader,
	errs.OutcomeUnknown:   rpctypes.ErrGRPCTimeout,
	errs.DeadlineExceeded: rpctypes.ErrGRPCTimeout,
	errs.ShuttingDown:     rpctypes.ErrGRPCStopped,
	errs.Forbidden:        rpctypes.ErrGRPCPermissionDenied,
	errs.Unauthenticated:  rpctypes.ErrGRPCInvalidAuthToken,
	errs.Corrupt:          rpctypes.ErrGRPCCorrupt,
	errs.Canceled:         rpctypes.ErrGRPCCanceled,
}

// fallback is the gRPC code of those that etcd does not have.
var fallback = map[errs.Code]codes.Code{
	errs.InvalidArgument:  codes.InvalidArgument,
	errs.UnknownField:     codes.InvalidArgument,
	errs.NotFound:         codes.NotFound,
	errs.AlreadyExists:    codes.AlreadyExists,
	errs.RevisionMismatch: codes.FailedPrecondition,
	errs.Conflict:         codes.FailedPrecondition,
	errs.FailedPrecond:    codes.FailedPrecondition,
	errs.StaleToken:       codes.FailedPrecondition,
	errs.Unimplemented:    codes.Unimplemented,
	errs.Unavailable:      codes.Unavailable,
	errs.ServiceOff:       codes.Unavailable,
	errs.VersionTooOld:    codes.FailedPrecondition,
	errs.WatchReset:       codes.Unavailable,
	errs.WatcherTooSlow:   codes.ResourceExhausted,
}

// grpcError turns an error of this program into what the client gets. special, when
// given, overrides byCode for the request at hand.
func grpcError(ctx context.Context, err error, special ...coded) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		if grpcserver.Limited(ctx) && errors.Is(cerr, context.DeadlineExceeded) {
			return rpctypes.ErrGRPCTimeout
		}
		return status.FromContextError(cerr).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	// An error of this program says more than the end of a context that it wraps.
	var e *errs.Error
	if !errors.As(err, &e) {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return status.FromContextError(err).Err()
		}
		e = errs.From(err)
	}
	for _, s := range special {
		if s.code == e.Code {
			return s.err
		}
	}
	if g, ok := byCode[e.Code]; ok {
		return g
	}
	if c, ok := fallback[e.Code]; ok {
		return status.Error(c, "etcdserver: "+e.Message)
	}
	return status.Error(codes.Unknown, "etcdserver: "+e.Message)
}

// coded is an error of etcd that a code means in one request.
type coded struct {
	code errs.Code
	err  error
}

var (
	missingKey    = coded{errs.NotFound, rpctypes.ErrGRPCKeyNotFound}
	leaseExists   = coded{errs.AlreadyExists, rpctypes.ErrGRPCLeaseExist}
	leaseTTL      = coded{errs.InvalidArgument, rpctypes.ErrGRPCLeaseTTLTooLarge}
	noMember      = coded{errs.NotFound, rpctypes.ErrGRPCMemberNotFound}
	notEnough     = coded{errs.NoLeader, rpctypes.ErrGRPCUnhealthy}
	notLearner    = coded{errs.Conflict, rpctypes.ErrGRPCMemberNotLearner}
	notReady      = coded{errs.FailedPrecond, rpctypes.ErrGRPCLearnerNotReady}
	notTransferee = coded{errs.NotFound, rpctypes.ErrGRPCBadLeaderTransferee}
)

// What etcd has no text for.
var (
	errMemberStarted = status.Error(codes.Aborted, "etcdserver: a node joined as this member while the request was under way; try again")
	errMemberInvalid = status.Error(codes.InvalidArgument, "etcdserver: member: the number or the addresses are none that a member can have")

	errTooManyMembers = status.Errorf(codes.FailedPrecondition,
		"etcdserver: members: a cluster has at most %d, those that were added and have not joined included; remove one that is not needed", table.MaxExpected)
)

// byOutcome is what the outcomes of commands mean.
var byOutcome = [...]error{
	table.OK:                   nil,
	table.UserExists:           rpctypes.ErrGRPCUserAlreadyExist,
	table.UserNotFound:         rpctypes.ErrGRPCUserNotFound,
	table.RoleExists:           rpctypes.ErrGRPCRoleAlreadyExist,
	table.RoleNotFound:         rpctypes.ErrGRPCRoleNotFound,
	table.RoleNotGranted:       rpctypes.ErrGRPCRoleNotGranted,
	table.PermissionNotGranted: rpctypes.ErrGRPCPermissionNotGranted,
	table.InvalidManagement:    rpctypes.ErrGRPCInvalidAuthMgmt,
	table.RootUserMissing:      rpctypes.ErrGRPCRootUserNotExist,
	table.RootRoleMissing:      rpctypes.ErrGRPCRootRoleNotExist,
	table.MemberExists:         rpctypes.ErrGRPCMemberExist,
	table.MemberNotFound:       rpctypes.ErrGRPCMemberNotFound,
	table.MemberStarted:        errMemberStarted,
	table.MemberInvalid:        errMemberInvalid,
	table.AddressTaken:         rpctypes.ErrGRPCPeerURLExist,
	table.TooManyMembers:       errTooManyMembers,
}

// text is an error of etcd as a cancel reason has it.
func text(err error) string { return err.Error() }

func invalidCompare(field string, v int32) error {
	return status.Errorf(codes.InvalidArgument, "etcdserver: compare.%s: %d is none that etcd knows", field, v)
}
