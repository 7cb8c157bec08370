//go:build !unix

package state

import (
	"errors"
	"os"
)

// dupFile is not possible here: a lock belongs to one descriptor.
func dupFile(*os.File) (*os.File, error) {
	return nil, errors.New("the state file has outgrown mmap_bytes; raise it and start again")
}

func lockFile(*os.File) error { return nil }

func unlockFile(*os.File) error { return nil }
