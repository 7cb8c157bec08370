package wire

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestPipeCarriesBytes: whatever the sizes of reads and writes, both directions
// give what was written, in order.
func TestPipeCarriesBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := Pipe()
		var wg sync.WaitGroup
		send := func(c net.Conn, sizes []int, fill byte) []byte {
			var all []byte
			for i, n := range sizes {
				all = append(all, bytes.Repeat([]byte{fill + byte(i)}, n)...)
			}
			wg.Go(func() {
				rest := all
				for _, n := range sizes {
					if k, err := c.Write(rest[:n]); k != n || err != nil {
						t.Errorf("wrote %d of %d: %v", k, n, err)
					}
					rest = rest[n:]
				}
			})
			return all
		}
		receive := func(c net.Conn, want []byte, piece int) {
			wg.Go(func() {
				got := make([]byte, 0, len(want))
				buf := make([]byte, piece)
				for len(got) < len(want) {
					n, err := c.Read(buf)
					if err != nil {
						t.Errorf("read: %v", err)
						return
					}
					got = append(got, buf[:n]...)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("other bytes came out")
				}
			})
		}
		sizes := rapid.SliceOfN(rapid.IntRange(0, pipeBuffer), 0, 6)
		piece := rapid.IntRange(1000, 2*pipeBuffer)
		up := send(a, sizes.Draw(t, "up"), 1)
		down := send(b, sizes.Draw(t, "down"), 100)
		receive(b, up, piece.Draw(t, "up piece"))
		receive(a, down, piece.Draw(t, "down piece"))
		wg.Wait()
		_, _ = a.Close(), b.Close()
	})
}

func TestPipeClose(t *testing.T) {
	a, b := Pipe()
	_, err := a.Write([]byte("last words"))
	require.NoError(t, err)
	require.NoError(t, a.Close())
	require.NoError(t, a.Close())
	all, err := io.ReadAll(b)
	require.NoError(t, err)
	require.Equal(t, "last words", string(all))
	_, err = b.Write([]byte("x"))
	require.Equal(t, io.ErrClosedPipe, err)
	_, err = a.Read(make([]byte, 1))
	require.Equal(t, net.ErrClosed, err)
	_, err = a.Write([]byte("x"))
	require.Equal(t, net.ErrClosed, err)
	require.Equal(t, "in-process", a.RemoteAddr().String())
	require.Equal(t, "pipe", a.LocalAddr().Network())
}

func TestPipeDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		start := time.Now()
		require.NoError(t, a.SetReadDeadline(start.Add(time.Second)))
		_, err := a.Read(make([]byte, 1))
		require.Equal(t, os.ErrDeadlineExceeded, err)
		require.Equal(t, time.Second, time.Since(start))
		// Data that comes in time is read; a deadline that is taken back is none.
		require.NoError(t, a.SetDeadline(time.Time{}))
		time.AfterFunc(time.Hour, func() { _, _ = b.Write([]byte("x")) })
		n, err := a.Read(make([]byte, 1))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		// A writer waits for room until its deadline, and says how far it came.
		start = time.Now()
		require.NoError(t, a.SetWriteDeadline(start.Add(time.Minute)))
		n, err = a.Write(make([]byte, pipeBuffer+1))
		require.Equal(t, os.ErrDeadlineExceeded, err)
		require.Equal(t, pipeBuffer, n)
		require.Equal(t, time.Minute, time.Since(start))
		// A deadline set meanwhile wakes the reader.
		time.AfterFunc(time.Second, func() { _ = a.SetReadDeadline(time.Unix(1, 0)) })
		_, err = a.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		// So does a close.
		require.NoError(t, a.SetDeadline(time.Time{}))
		time.AfterFunc(time.Second, func() { _ = a.Close() })
		_, err = a.Write(make([]byte, 1))
		require.Equal(t, net.ErrClosed, err)
		_ = b.Close()
	})
}
