package state

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"nekoq/services/errs"
)

// closedFile makes a state file with some rows.
func closedFile(t *testing.T) string {
	t.Helper()
	f := open(t, Options{})
	openSessionOn(f)
	for i := range 300 {
		f.apply(put(string(rune('a'+i%26))+string(rune('a'+i/26)), string(make([]byte, 100))))
	}
	require.NoError(t, f.Machine.Close())
	return f.opts.Path
}

func TestOpenExplainsWhatIsWrong(t *testing.T) {
	good, err := os.ReadFile(closedFile(t))
	require.NoError(t, err)
	for name, content := range map[string][]byte{
		"text":       []byte("this is not a state file, but a text of some length"),
		"zeros":      make([]byte, 64<<10),
		"meta gone":  append(make([]byte, 8192), good[8192:]...),
		"cut":        good[:16<<10],
		"cut at one": good[:4096],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			_, err := Open(Options{Path: path, Registry: testRegistry(), Config: lazy()})
			require.True(t, errs.Has(err, errs.Corrupt), "%v", err)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, "restore a backup")
			err = CheckFile(path)
			require.True(t, errs.Has(err, errs.Corrupt), "%v", err)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, content, after, "a damaged file is evidence and stays as it is")
		})
	}
}

func TestOpenForeignAndNewerFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "foreign.db")
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("theirs"))
		return err
	}))
	require.NoError(t, db.Close())
	_, err = Open(Options{Path: path, Registry: testRegistry()})
	require.True(t, errs.Has(err, errs.Corrupt))
	require.ErrorContains(t, err, "no format marker")

	path = closedFile(t)
	db, err = bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		v := append([]byte(nil), tx.Bucket(metaBucket).Get(metaKey)...)
		v[9] = fileVersion + 1
		return tx.Bucket(metaBucket).Put(metaKey, v)
	}))
	require.NoError(t, db.Close())
	_, err = Open(Options{Path: path, Registry: testRegistry()})
	require.ErrorContains(t, err, "format version 4; this program reads version 3")
}

func TestOpenInUse(t *testing.T) {
	f := open(t, Options{})
	began := time.Now()
	_, err := Open(Options{Path: f.opts.Path, Registry: testRegistry(), Config: Config{LockTimeout: 60 * time.Millisecond}})
	require.True(t, errs.Has(err, errs.Conflict), "%v", err)
	require.ErrorContains(t, err, "in use by another process")
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestOpenWithoutAFolder(t *testing.T) {
	_, err := Open(Options{Path: filepath.Join(t.TempDir(), "no", "such", "state.db"), Registry: testRegistry()})
	require.True(t, errs.Has(err, errs.Unavailable), "%v", err)
	require.Error(t, CheckFile(filepath.Join(t.TempDir(), "none.db")))
}

func TestOpenAddsTablesThatAreMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	m, err := Open(Options{Path: path, Registry: NewRegistry()})
	require.NoError(t, err)
	require.NoError(t, m.Close())
	f := open(t, Options{Path: path})
	f.apply(put("a", "1"))
	f.reopen()
	require.Equal(t, map[string]string{"a": "1"}, f.rows())
	require.NoError(t, f.Machine.Close())
	require.NoError(t, CheckFile(path))
}

// TestCheckFileFindsDamage flips bytes of a good file: CheckFile and Open must
// each answer (an error, or fine when the byte is in a free page or a value)
// and never crash or hang.
func TestCheckFileFindsDamage(t *testing.T) {
	path := closedFile(t)
	require.NoError(t, CheckFile(path))
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	found := 0
	dir := t.TempDir()
	for range 150 {
		bad := append([]byte(nil), good...)
		page := r.IntN(40)  // most of the file is room to grow
		for i := range 16 { // a page header, where damage always matters if the page is in use
			bad[page*4096+i] ^= byte(1 + r.IntN(255))
		}
		p := filepath.Join(dir, "bad.db")
		require.NoError(t, os.WriteFile(p, bad, 0o600))
		if err := CheckFile(p); err != nil {
			require.True(t, errs.Has(err, errs.Corrupt), "%v", err)
			found++
		}
	}
	require.NotZero(t, found)
}
