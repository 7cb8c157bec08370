package auth

import "context"

type principalKey struct{}

// ContextKey is the key under which a context answers a *Principal. A door that
// has a context type of its own answers it from there, at no allocation.
var ContextKey any = principalKey{}

// NewContext and FromContext carry the principal from the door to the service.
func NewContext(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, ContextKey, &p)
}

// FromContext gives the principal, or one named "anonymous" of door "internal".
func FromContext(ctx context.Context) Principal {
	if p, ok := ctx.Value(ContextKey).(*Principal); ok {
		return *p
	}
	return Principal{Name: "anonymous", Door: "internal"}
}
