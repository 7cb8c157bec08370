package state

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"nekoq/services/errs"
)

// A file that cannot be opened is not called damaged: nobody is to throw away a
// good file because its disk was mounted read-only.
func TestFileThatCannotBeOpenedIsNotDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	require.NoError(t, os.WriteFile(path, []byte("good"), 0o600))
	for _, cause := range []error{syscall.EROFS, syscall.EACCES, syscall.EIO, syscall.EMFILE} {
		err := openError(path, &fs.PathError{Op: "open", Path: path, Err: cause})
		require.Equal(t, errs.Unavailable, errs.CodeOf(err), "%v", err)
		require.ErrorContains(t, err, path+" cannot be opened: "+cause.Error()+"; make it readable and writable for this user, or set node.data_dir")
		require.NotContains(t, errs.From(err).Message, "damaged")
	}
}
