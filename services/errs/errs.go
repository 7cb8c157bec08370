// Package errs is the one error type of NekoQ: a stable code, a message that
// is safe to show to a user, optional details and the cause.
//
// It owns the table of codes (codes.go). Every door turns an *Error into its
// own protocol with one writer; nothing else in NekoQ matches on error text.
// Errors are immutable after construction and safe to share. Every package may
// import it; it imports nothing of NekoQ.
package errs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Detail names one thing that was wrong: the field, the value that was given
// and the limit it broke. Empty members are left out on the wire.
type Detail struct {
	Field string `json:"field,omitempty"`
	Value string `json:"value,omitempty"`
	Limit string `json:"limit,omitempty"`
	Help  string `json:"help,omitempty"`
}

// Error carries a code of the table in codes.go.
type Error struct {
	Code    Code
	Message string
	Details []Detail
	cause   error
}

// New makes an error with a formatted message. The message names what was
// wrong and what to do; it never holds a secret.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid is the common case of a bad field: code invalid_argument with one
// detail, and a message made of all three parts. A long value is shown by its
// beginning and its length.
func Invalid(field string, value any, limit string) *Error {
	shown := fmt.Sprint(value)
	if n := len(shown); n > maxShown {
		shown = fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(shown[:maxShown], ""), n)
	}
	return New(InvalidArgument, "%s: %q is not valid: want %s", field, shown, limit).
		With(Detail{Field: field, Value: shown, Limit: limit})
}

// maxShown is how much of a bad value is shown, in bytes: more than any name may have.
const maxShown = 512

// With returns a copy of e with one more detail.
func (e *Error) With(d Detail) *Error {
	c := *e
	c.Details = append(slices.Clip(slices.Clone(e.Details)), d)
	return &c
}

// Wrap returns a copy of e whose cause is err. The cause is for logs and for
// errors.Is; doors do not show it.
func (e *Error) Wrap(err error) *Error {
	c := *e
	c.cause = err
	return &c
}

// Error gives "code: message" and the cause, for logs.
func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is(err, errs.New(code, "")) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Retryable tells whether the same request may be sent again as it is.
func (e *Error) Retryable() bool { return InfoOf(e.Code).Retryable }

// From returns the *Error in err's chain, or an internal error around err.
// It returns nil for nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return fromContext(err)
}

// CodeOf returns the code of err, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return From(err).Code
}

// Has tells whether err carries code.
func Has(err error, code Code) bool { return CodeOf(err) == code }
