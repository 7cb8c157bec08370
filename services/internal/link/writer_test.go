package link

import (
	"io"
	"net"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A connection keeps its buffers while it writes, and none once it is idle.
func TestIdleWritersKeepNoBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		w := NewWriter(ours, func(err error) { t.Error(err) })
		go w.Run()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		kept := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return cap(w.Buf) + cap(w.spare)
		}
		for _, lone := range []bool{true, false, false} {
			require.NoError(t, w.Begin(nil, nil, false))
			w.Buf = append(w.Buf, make([]byte, 10_000)...)
			w.End(lone)
			synctest.Wait()
			w.Trim()
			require.GreaterOrEqual(t, kept(), 10_000)
		}
		require.NoError(t, w.Begin(nil, nil, false))
		w.Buf = append(w.Buf, "held"...)
		w.Hold()
		w.Trim()
		require.Equal(t, "held", string(w.Buf))
		w.Flush(true)
		w.Trim()
		require.NotZero(t, kept())
		w.Trim()
		require.Zero(t, kept())
		w.Stop(net.ErrClosed)
		require.NoError(t, ours.Close())
	})
}
