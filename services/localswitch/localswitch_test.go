package localswitch_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"nekoq/services/errs"
	"nekoq/services/localswitch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// row: nekoq 15: one process serves every service, without a port or a file.
func TestAWholeNekoQInsideATest(t *testing.T) {
	sw := localswitch.ForTest(t)
	ctx := t.Context()
	require.Nil(t, sw.App().HTTPAddr())
	require.Nil(t, sw.App().NativeAddr())

	w, err := sw.Client().KV().Put(ctx, "greeting", []byte("hello"))
	require.NoError(t, err)
	got, err := sw.Client().KV().Get(ctx, "greeting")
	require.NoError(t, err)
	require.Equal(t, "hello", string(got.Value))
	require.Equal(t, w.Revision, got.ModRevision)
	_, err = sw.Client().KV().Get(ctx, "nothing")
	require.True(t, errs.Has(err, errs.NotFound), err)

	ids, err := sw.Client().Numgen().IDs(ctx, "orders", 3)
	require.NoError(t, err)
	require.Len(t, ids, 3)

	res, err := sw.HTTPClient().Get("http://nekoq/v1/warehouse/kv/greeting?raw=true")
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
}

// Two in one process do not see each other.
func TestSwitchesAreIndependent(t *testing.T) {
	a, b := localswitch.ForTest(t), localswitch.ForTest(t)
	_, err := a.Client().KV().Put(t.Context(), "k", []byte("a"))
	require.NoError(t, err)
	_, err = b.Client().KV().Get(t.Context(), "k")
	require.True(t, errs.Has(err, errs.NotFound), err)
}

func TestDataFolderIsKept(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		s, err := localswitch.Start(t.Context(), localswitch.Options{DataDir: dir})
		require.NoError(t, err)
		if i > 0 {
			got, err := s.Client().KV().Get(t.Context(), fmt.Sprintf("k%d", i-1))
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("v", i-1), string(got.Value))
		}
		_, err = s.Client().KV().Put(t.Context(), fmt.Sprintf("k%d", i), []byte(strings.Repeat("v", i)))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		require.NoError(t, s.Stop(ctx))
		cancel()
	}
}

// BenchmarkStart is the time from nothing until the first write is done.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s, err := localswitch.Start(b.Context(), localswitch.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Client().KV().Put(b.Context(), "k", []byte("v")); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
