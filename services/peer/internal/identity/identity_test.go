package identity

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

func TestIdentityIsMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s, err := Open(dir, "n1")
	require.NoError(t, err)
	require.True(t, s.Created())
	require.False(t, s.Incarnation().IsZero())
	require.Equal(t, New, s.Get().Phase)
	require.NoError(t, s.Update(func(i *Identity) {
		i.ClusterID, i.Phase, i.Joined = "c1", Member, 9
		i.Peers["n2"] = s.Incarnation().String()
	}))

	again, err := Open(dir, "n1")
	require.NoError(t, err)
	require.False(t, again.Created())
	require.Equal(t, s.Incarnation(), again.Incarnation())
	require.Equal(t, s.Get(), again.Get())
	inc, ok := again.Pinned("n2")
	require.True(t, ok)
	require.Equal(t, s.Incarnation(), inc)
	_, ok = again.Pinned("n3")
	require.False(t, ok)

	other, err := Open(t.TempDir(), "n1")
	require.NoError(t, err)
	require.NotEqual(t, s.Incarnation(), other.Incarnation(), "an empty folder is another life")
}

func TestWrongOrDamagedFileIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(dir, "n1")
	require.NoError(t, err)
	_, err = Open(dir, "n2")
	require.Equal(t, errs.IdentityRefused, errs.CodeOf(err))
	require.ErrorContains(t, err, `belongs to node "n1"`)
	require.ErrorContains(t, err, "node.data_dir")

	path := filepath.Join(dir, FileName)
	for _, content := range []string{"", "{", `{"node_id":"n1","incarnation":"zz","phase":"new"}`, `{"node_id":"n1","incarnation":"00000000000000000000000000000001","phase":"odd"}`} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err = Open(dir, "n1")
		require.Equal(t, errs.Corrupt, errs.CodeOf(err), content)
		require.ErrorContains(t, err, path)
		require.ErrorContains(t, err, "join anew")
	}
}

func TestFailedWriteChangesNothing(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, "n1")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, FileName+".new"), 0o700)) // takes the place of the temporary file
	err = s.Update(func(i *Identity) { i.ClusterID = "c1" })
	require.Equal(t, errs.Unavailable, errs.CodeOf(err))
	require.Empty(t, s.Get().ClusterID)
}
