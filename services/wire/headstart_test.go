package wire

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

// A server that waits for something until its deadline answers before the caller
// gives up, so that the caller learns what it waited for.
func TestServerEndsBeforeItsCaller(t *testing.T) {
	const m Method = 0x7f01
	mux := NewMux()
	mux.Unary(m, "test.patient", func(ctx context.Context, _, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, errs.New(errs.NoLeader, "waited for a leader")
	})
	a, b := Pipe()
	r := startRigOn(t, NewServer(mux, ServerOptions{}), Options{}, a, b)
	_, err := r.conn.Do(t.Context(), Request{Method: m, Deadline: time.Now().Add(time.Second)})
	require.Equal(t, errs.NoLeader, errs.CodeOf(err), "%v", err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = r.conn.Do(ctx, Request{Method: m})
	require.Equal(t, errs.NoLeader, errs.CodeOf(err), "%v", err)
}
