package errs

import (
	"context"
	"errors"
)

// Code is the stable, snake_case name of a kind of error. Codes are only ever
// appended.
type Code string

// The codes. Their meaning, HTTP status and retry rule stand in Table.
const (
	InvalidArgument   Code = "invalid_argument"
	UnknownField      Code = "unknown_field"
	BadPageToken      Code = "bad_page_token"
	FutureRevision    Code = "future_revision"
	Unauthenticated   Code = "unauthenticated"
	Forbidden         Code = "forbidden"
	NotFound          Code = "not_found"
	MethodNotAllowed  Code = "method_not_allowed"
	NotAcceptable     Code = "not_acceptable"
	AlreadyExists     Code = "already_exists"
	RevisionMismatch  Code = "revision_mismatch"
	Conflict          Code = "conflict"
	FailedPrecond     Code = "failed_precondition"
	Compacted         Code = "compacted"
	SessionExpired    Code = "session_expired"
	LeaseNotFound     Code = "lease_not_found"
	StaleToken        Code = "stale_token"
	TooLarge          Code = "too_large"
	UnsupportedMedia  Code = "unsupported_media_type"
	TooManyRequests   Code = "too_many_requests"
	Canceled          Code = "canceled"
	Internal          Code = "internal"
	Unimplemented     Code = "unimplemented"
	NoLeader          Code = "no_leader"
	OutcomeUnknown    Code = "outcome_unknown"
	DeadlineExceeded  Code = "deadline_exceeded"
	Unavailable       Code = "unavailable"
	ShuttingDown      Code = "shutting_down"
	ServiceOff        Code = "service_off"
	ClockMovedBack    Code = "clock_moved_back"
	Exhausted         Code = "exhausted"
	StorageFull       Code = "storage_full"
	Corrupt           Code = "corrupt"
	IdentityRefused   Code = "identity_refused"
	VersionTooOld     Code = "version_too_old"
	WatcherTooSlow    Code = "watcher_too_slow"
	ProtocolViolation Code = "protocol_violation"
	WatchReset        Code = "watch_reset"
	DuplicateKey      Code = "duplicate_key"
	QuotaExceeded     Code = "quota_exceeded"
	TooManyOps        Code = "too_many_operations"
	NotLeader         Code = "not_leader"
)

// Info is one row of the table of codes.
type Info struct {
	Code      Code
	Status    int  // HTTP status
	Retryable bool // the same request may be sent again unchanged
	Doc       string
}

// Table is every code, in the order of the documentation.
var Table = []Info{
	{InvalidArgument, 400, false, "A field, parameter or body is not valid; the detail names field, value and limit."},
	{UnknownField, 400, false, "A field or parameter that does not exist; the detail names the nearest known one."},
	{BadPageToken, 400, false, "The page token is damaged or belongs to another query."},
	{FutureRevision, 400, false, "The revision lies ahead of the store's."},
	{Unauthenticated, 401, false, "No identity, or one that is not valid."},
	{Forbidden, 403, false, "The identity may not do this, or the name is reserved."},
	{NotFound, 404, false, "No such thing."},
	{MethodNotAllowed, 405, false, "The path exists, but not with this method."},
	{NotAcceptable, 406, false, "None of the accepted content types can be served."},
	{AlreadyExists, 409, false, "A thing of that name exists already."},
	{RevisionMismatch, 409, false, "The thing is not at the revision that the request demanded."},
	{Conflict, 409, false, "The request contradicts the present state."},
	{FailedPrecond, 412, false, "A precondition does not hold."},
	{Compacted, 410, false, "The history before the compact revision is gone; read anew and watch from there."},
	{SessionExpired, 409, false, "The client session is unknown or expired, so the outcome of its older requests can no longer be told."},
	{LeaseNotFound, 404, false, "The lease is unknown or expired."},
	{StaleToken, 409, false, "The fencing token has been superseded."},
	{TooLarge, 413, false, "The key, value, body or batch is over its limit; the detail names it."},
	{UnsupportedMedia, 415, false, "The content type or encoding of the body is not supported."},
	{TooManyRequests, 429, true, "Too many requests at once, or too many pending; try again after a pause."},
	{Canceled, 499, false, "The caller gave up."},
	{Internal, 500, false, "A defect of the server; the log has the cause under the request id."},
	{Unimplemented, 501, false, "This server does not do that."},
	{NoLeader, 503, true, "No leader is known, so nothing was done."},
	{OutcomeUnknown, 503, false, "The write was sent, and whether it took effect is not known; retry with the same request id, or read first."},
	{DeadlineExceeded, 504, true, "The deadline passed before anything was done."},
	{Unavailable, 503, true, "The server cannot answer now."},
	{ShuttingDown, 503, true, "The server is stopping; use another one."},
	{ServiceOff, 503, false, "The service is switched off in this server's configuration."},
	{ClockMovedBack, 503, true, "The clock stepped back further than the configured drift, and an ID given now could repeat."},
	{Exhausted, 507, false, "A number space or a quota is used up."},
	{StorageFull, 507, true, "The disk is full; reads go on, and writes go on when space returns."},
	{Corrupt, 500, false, "A file of the server is damaged; the message names it and the way out."},
	{IdentityRefused, 409, false, "The node's identity does not match what the cluster knows of it."},
	{VersionTooOld, 409, false, "A node or the cluster is at a version that does not have this."},
	{WatcherTooSlow, 429, true, "The watcher fell behind further than the server keeps; resume from the last revision seen."},
	{ProtocolViolation, 400, false, "The peer did not speak the protocol."},
	{WatchReset, 503, true, "The state was replaced by a snapshot; read anew and watch from there."},
	{DuplicateKey, 400, false, "A transaction writes the same key twice."},
	{QuotaExceeded, 507, false, "A quota of a prefix, or the limit of the whole store, is used up; the message names it. Deletes and compaction go on."},
	{TooManyOps, 400, false, "A transaction has more operations than the limit."},
	{NotLeader, 409, false, "The lock or election is not held by who asks."},
}

var byCode = func() map[Code]Info {
	m := make(map[Code]Info, len(Table))
	for _, i := range Table {
		if _, dup := m[i.Code]; dup {
			panic("errs: duplicate code " + string(i.Code))
		}
		m[i.Code] = i
	}
	return m
}()

// InfoOf returns the row of code; an unknown code gets that of Internal.
func InfoOf(code Code) Info {
	if i, ok := byCode[code]; ok {
		return i
	}
	return byCode[Internal]
}

func fromContext(err error) *Error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return New(DeadlineExceeded, "the deadline passed").Wrap(err)
	case errors.Is(err, context.Canceled):
		return New(Canceled, "the request was cancelled").Wrap(err)
	}
	return New(Internal, "internal error").Wrap(err)
}
