package state

import (
	"fmt"
	"os"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
)

// CheckFile reads the whole state file at path, which no process may have open,
// and returns an *errs.Error that says what is wrong with it.
func CheckFile(path string) error {
	if _, err := os.Stat(path); err != nil {
		return openError(path, err)
	}
	return checkFile(path)
}

func checkFile(path string) (err error) {
	var db *bolt.DB
	var file *os.File
	defer func() {
		if p := recover(); p != nil {
			if file != nil {
				_ = unlockFile(file) // the memory map would keep the lock
			}
			err = corrupt(path, panicError(p))
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db, err = bolt.Open(path, 0o600, &bolt.Options{
		ReadOnly: true, Timeout: DefaultConfig().LockTimeout,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag, perm)
			return file, err
		},
	})
	if err != nil {
		return openError(path, err)
	}
	err = db.View(func(tx *bolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if tx.Size() > info.Size() {
			return fmt.Errorf("it was cut to %d of %d bytes", info.Size(), tx.Size())
		}
		if _, err := readMeta(tx); err != nil {
			return err
		}
		if err := walkAll(tx); err != nil {
			return err
		}
		// After walkAll, so that damage which would make bbolt's own check
		// panic in its goroutine is found here first.
		var first error
		for cerr := range tx.Check() {
			if first == nil {
				first = cerr
			}
		}
		return first
	})
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return corrupt(path, err)
	}
	return nil
}

// walkAll reads every row and decodes the sessions.
func walkAll(tx *bolt.Tx) error {
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		sessions := string(name) == "sessions"
		var last []byte
		return b.ForEach(func(k, v []byte) error {
			if last != nil && string(last) >= string(k) {
				return fmt.Errorf("table %s has keys out of order", name)
			}
			last = k
			if !sessions {
				return nil
			}
			_, err := decodeSession(k, v)
			return err
		})
	})
}
